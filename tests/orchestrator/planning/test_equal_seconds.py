"""`compare: seconds`: steps, schedule, ids and growth, from costs that are given. Without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import UsageError
from distill.recipe import Recipe
from orchestrator.ledger.recorded import recorded_costs
from orchestrator.ledger.run_folder import check_run_folder, write_plan
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.cost_estimate import estimate, render_estimate
from orchestrator.planning.equal_seconds import (
    recipe_within_seconds,
    unmeasured,
    with_step_costs,
)
from orchestrator.planning.growth import growth_of
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.replay import RecordedTrial, replay
from tests import examples
from tests.orchestrator.sweep_files import TINY_RECIPE, tiny_sweep
from tests.orchestrator.sweeps import SMALL

PAIR = "segformer-test_vit_to_deeplabv3-test_resnet"
COSTS = {PAIR: {"kd": 1.6, "heteroakd": 2.0}}


def equal_seconds(costs: Any = COSTS, **changes: Any) -> SweepConfig:
    return tiny_sweep(compare=changes.pop("compare", "seconds"), step_costs=costs, **changes)


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({**TINY_RECIPE, **changes})


def ids_of(plan: Plan, scores: dict[str, RecordedTrial] | None = None) -> set[str]:
    return set(replay(plan, scores or {}).trials)


@given(steps=st.integers(1, 100_000), cost=st.floats(1, 100).map(lambda cost: round(cost, 3)))
@settings(max_examples=examples(100), deadline=None)
def test_a_method_has_as_many_whole_steps_as_the_students_seconds_hold(steps: int, cost: float) -> None:
    found = recipe_within_seconds(recipe(steps=steps), cost).steps
    rounding = 1e-9 * steps
    assert found * cost <= steps + rounding or found == 1
    assert (found + 1) * cost > steps - rounding


@pytest.mark.parametrize("schedule", ["poly", "cosine", "one_cycle"])
@pytest.mark.parametrize("warmup", [0, 20])
def test_the_schedule_of_fewer_steps_has_the_learning_rates_of_the_whole_one(
    schedule: str, warmup: int
) -> None:
    whole = recipe(steps=200, schedule=schedule, warmup_steps=warmup)
    half = recipe_within_seconds(whole, 2.0)
    assert (half.steps, half.warmup_steps) == (100, warmup // 2)
    start = warmup // 2 if schedule != "one_cycle" else 0  # a linear warm-up has steps of its own size
    for step in range(start, half.steps):
        assert half.lr_factor(step) == pytest.approx(whole.lr_factor(2 * step), abs=1e-12)


def test_rungs_and_evaluations_are_fractions_of_a_methods_own_steps() -> None:
    plan = make_plan(equal_seconds(recipes__student__steps=80, search__evaluations=2))
    found = {
        wave.brackets[0].study.title: (wave.steps, wave.rungs, wave.evaluations)
        for cohort in plan.students
        for wave in cohort.waves
        if wave.phase == "search"
    }
    assert found == {
        "student": (80, (20, 40), (40, 80)),
        "kd": (50, (12, 25), (25, 50)),
        "heteroakd": (40, (10, 20), (20, 40)),
    }


def test_trials_at_equal_steps_keep_their_ids_beside_trials_at_equal_seconds() -> None:
    steps, both = make_plan(tiny_sweep()), make_plan(equal_seconds(compare=["seconds", "steps"]))
    assert both.config.compare == ("steps", "seconds")
    alone = make_plan(equal_seconds())
    assert ids_of(steps) | ids_of(alone) == ids_of(both)
    shared = [replay(steps, {}).trials[trial_id].phase for trial_id in ids_of(steps) & ids_of(alone)]
    assert shared == ["teacher"]


def test_ids_follow_from_the_recorded_cost_and_all_methods_of_a_pair_have_one_recipe_hash() -> None:
    first, again, other = (
        make_plan(equal_seconds({PAIR: {"kd": cost, "heteroakd": 2.0}})) for cost in (1.6, 1.6, 1.3)
    )
    assert (first.plan_hash, ids_of(first)) == (again.plan_hash, ids_of(again))
    changed = ids_of(first) - ids_of(other)
    assert {replay(first, {}).trials[trial_id].title for trial_id in changed} == {"kd"}
    trials = [trial for trial in replay(first, {}).trials.values() if trial.phase == "search"]
    assert len({trial.recipe_hash for trial in trials}) == 1
    assert {(trial.title, trial.cost, trial.recipe.steps) for trial in trials} == {
        ("student", 1.0, 8), ("kd", 1.6, 5), ("heteroakd", 2.0, 4),
    }  # fmt: skip


def test_a_study_waits_for_its_cost_and_a_measured_cost_makes_the_run_grow_without_a_loss() -> None:
    before = equal_seconds({PAIR: {"kd": 1.6}})
    assert unmeasured(before) == [(PAIR, "heteroakd")]
    waiting = make_plan(before)
    assert {study.title for study in waiting.studies} == {"student", "kd"}
    trials = replay(waiting, {}).trials
    recorded = {
        trial_id: RecordedTrial("ok", {trial.recipe.steps: 0.5}) for trial_id, trial in trials.items()
    }
    rows = [{"trial_id": t.trial_id, "study_id": t.study_id, "phase": t.phase, "pair": t.pair, "method": t.title,
             "seed": t.seed, "repeat": 0} for t in trials.values()]  # fmt: skip
    grown = make_plan(with_step_costs(before, {PAIR: {"kd": 9.9, "heteroakd": 2.0}}))
    assert grown.config.step_costs == COSTS  # the cost that was known stays
    growth = growth_of(before, grown, rows, recorded)
    assert growth.lost == ()
    assert growth.kept == len(trials)
    assert growth.added == ("1 study",)
    changed = growth_of(before, make_plan(equal_seconds({PAIR: {"kd": 1.7}})), rows, recorded)
    assert f"step_costs.{PAIR}.kd: there 1.6, here 1.7: 4 trials" in changed.lost


def test_a_run_at_equal_steps_grows_by_equal_seconds_and_not_the_other_way_round() -> None:
    steps = tiny_sweep()
    trials = replay(make_plan(steps), {}).trials
    recorded = {
        trial_id: RecordedTrial("ok", {trial.recipe.steps: 0.5}) for trial_id, trial in trials.items()
    }
    rows = [{"trial_id": t.trial_id, "study_id": t.study_id, "phase": t.phase, "pair": t.pair, "method": t.title,
             "seed": t.seed, "repeat": 0} for t in trials.values()]  # fmt: skip
    growth = growth_of(steps, make_plan(equal_seconds(compare=["steps", "seconds"])), rows, recorded)
    assert (growth.lost, growth.added) == ((), ("compare: seconds", "3 studies"))
    (lost,) = growth_of(steps, make_plan(equal_seconds()), rows, recorded).lost
    assert lost.startswith("compare: there ['steps'], here ['seconds']")


def test_the_costs_of_a_run_are_read_from_its_plan_and_without_it_from_its_newest_command(
    tmp_path: Path,
) -> None:
    from orchestrator.cluster.provenance import provenance_row

    ledger, plan = Ledger(tmp_path), make_plan(equal_seconds())
    assert recorded_costs(ledger) == {}
    write_plan(ledger, plan)
    assert recorded_costs(ledger) == COSTS
    resumed = with_step_costs(equal_seconds({}), recorded_costs(ledger))
    assert check_run_folder(ledger, make_plan(resumed), fresh=False) is None
    assert make_plan(resumed).plan_hash == plan.plan_hash
    ledger.append("provenance", [provenance_row(plan, [], {}, {})], "p")
    ledger.write_bytes("plan.json", b"{")
    assert recorded_costs(ledger) == COSTS


def test_a_dry_run_estimates_the_costs_that_are_not_measured_and_says_so() -> None:
    plan = make_plan(equal_seconds({PAIR: {"kd": 1.6}}))
    found = estimate(plan)
    rows = {row["method"]: row for row in found["equal_seconds"]}
    assert (rows["kd"]["steps"], rows["kd"]["is_measured"]) == (5, True)
    assert rows["heteroakd"]["step_cost"] > 1
    assert not rows["heteroakd"]["is_measured"]
    assert found["phases"]["final"]["trials"] == 6  # also of the study that waits for its cost
    assert found["plan_hash"] == plan.plan_hash
    assert "kd 5 (1.6), heteroakd" in render_estimate(found)
    assert "the sweep measures them before it trains students" in render_estimate(found)
    assert "equal seconds" not in render_estimate(estimate(make_plan(tiny_sweep())))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["compare=minutes"], "compare is 'minutes', must be one of 'steps' or 'seconds'"),
        (["compare=[]"], "compare is [], must be steps, seconds, or [steps, seconds]"),
        (["compare=[steps, steps]"], "must be steps, seconds, or [steps, seconds]"),
        (["step_costs={p: {heteroakd: 2}}"], "used by compare: seconds only; set compare, or leave them out"),
        (["compare=seconds", "step_costs={p: {heteroakd: 2}}"], "pair 'p' is not known"),
        (
            ["compare=seconds", f"step_costs={{{PAIR}: {{student: 2}}}}"],
            "method with a cost 'student' is not known",
        ),
        (["compare=seconds", f"step_costs={{{PAIR}: {{heteroakd: 0.5}}}}"], "is 0.5, must be at least 1"),
    ],
)
def test_a_wrong_comparison_is_refused_with_its_place(given: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_sweep(str(SMALL), given)
    assert message in str(caught.value)
    assert "--set " in str(caught.value)
