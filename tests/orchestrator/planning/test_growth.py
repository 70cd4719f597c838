"""A longer sweep file: what it keeps and adds, by ids. Without Ray; scores are made up."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.planning.config import SweepConfig
from orchestrator.planning.growth import Growth, growth_of
from orchestrator.planning.plan import Plan, Trial, make_plan
from orchestrator.planning.replay import RecordedTrial, replay
from tests import examples
from tests.orchestrator.sweep_files import tiny_sweep

METHODS = ["student", "kd"]
Ledger = dict[str, tuple[Trial, RecordedTrial]]


def settings_of(methods: int, seeds: int, brackets: int, pairs: int, finalists: int) -> dict[str, Any]:
    pair = tiny_sweep().pairs[0].model_dump(mode="json", exclude_unset=True)
    return {
        "methods": METHODS[:methods],
        "final__seeds": list(range(1, seeds + 1)),
        "search__trials": 2 * brackets,
        "search__bracket": 2,
        "search__finalists": finalists,
        "pairs": [{**pair, "name": f"pair{number}"} for number in range(pairs)],
    }


def train(config: SweepConfig, ledger: Ledger, at_most: int = 10**6) -> None:
    """Record every trial of the plan, in its order, with a score that its id decides, but not more than so many."""
    plan = make_plan(config)
    while at_most > 0:
        recorded = {trial_id: known for trial_id, (_, known) in ledger.items()}
        new = [t for t in replay(plan, recorded).trials.values() if t.trial_id not in ledger]
        if not new:
            return
        for trial in new[:at_most]:
            score = random.Random(trial.trial_id).random()
            ledger[trial.trial_id] = trial, RecordedTrial("ok", {trial.recipe.steps: score})
        at_most -= len(new)


def rows_of(ledger: Ledger) -> list[Mapping[str, Any]]:
    return [
        {
            "trial_id": trial.trial_id,
            "study_id": trial.study_id,
            "phase": trial.phase,
            "pair": trial.pair,
            "method": trial.title,
            "seed": trial.seed,
            "repeat": trial.repeat,
        }
        for trial, _ in ledger.values()
    ]


def grow(earlier: SweepConfig, plan: Plan, ledger: Ledger) -> Growth:
    return growth_of(earlier, plan, rows_of(ledger), {t: known for t, (_, known) in ledger.items()})


def chosen(config: SweepConfig, ledger: Ledger) -> set[str]:
    return set(replay(make_plan(config), {t: known for t, (_, known) in ledger.items()}).trials)


sizes = st.tuples(
    st.integers(1, 2), st.integers(1, 2), st.integers(1, 2), st.integers(1, 2), st.sampled_from([0, 1])
)


@given(
    steps=st.lists(sizes, min_size=2, max_size=3),
    cut=st.integers(0, 20),
    sampler=st.sampled_from(["sobol", "random"]),
)
@example(steps=[(1, 1, 1, 1, 1), (2, 1, 2, 1, 1)], cut=3, sampler="optuna")
@settings(max_examples=examples(10), deadline=None)
def test_a_run_that_grows_step_by_step_has_the_trials_of_the_longest_one_and_those_it_had(
    steps: list[tuple[int, ...]], cut: int, sampler: str
) -> None:
    """Also if the steps in between are cut after some trials. Nothing that is recorded is lost."""
    ladder = [
        settings_of(*(max(step[i] for step in steps[: n + 1]) for i in range(5))) for n in range(len(steps))
    ]
    configs = [tiny_sweep(**step, search__sampler=sampler) for step in ladder]
    ledger: Ledger = {}
    for number, config in enumerate(configs):
        before = set(ledger)
        if number:
            growth = grow(configs[number - 1], make_plan(config), ledger)
            assert growth.lost == ()
            assert growth.kept <= len(ledger)
        train(config, ledger, 10**6 if config is configs[-1] else cut)
        assert before <= set(ledger)
        if number and config is configs[-1]:
            new = len(set(ledger) - before)
            assert growth.trainings <= new <= growth.trainings + growth.perhaps
            assert growth.kept + growth.perhaps + new >= len(chosen(config, ledger))
    at_once: Ledger = {}
    train(configs[-1], at_once)
    assert chosen(configs[-1], ledger) == set(at_once)
    assert all(ledger[trial_id] == at_once[trial_id] for trial_id in at_once)


def finished(**changes: Any) -> tuple[SweepConfig, Ledger]:
    config = tiny_sweep(**changes)
    ledger: Ledger = {}
    train(config, ledger)
    return config, ledger


def test_what_is_added_is_said_in_one_sentence() -> None:
    config, ledger = finished(methods=["student", "kd"])
    plan = make_plan(tiny_sweep(final__seeds=[1, 2, 3]))
    assert len(ledger) == 1 + 2 * (4 + 2)
    assert grow(config, plan, ledger).sentence() == (
        "+ 1 method, 1 study, 1 final seed, 9 trainings; 13 kept"
    )


def test_a_longer_search_says_that_final_runs_depend_on_it_and_a_new_choice_has_its_own() -> None:
    config, ledger = finished(search__trials=4)
    longer = tiny_sweep(search__trials=8)
    growth = grow(config, make_plan(longer), ledger)
    assert growth.sentence() == (
        "+ 4 search trials per study, 12 trainings (up to 6 more where the search chooses another configuration); 13 kept"
    )
    former = {t for t, (trial, _) in ledger.items() if trial.phase == "final"}
    train(longer, ledger)
    left = former - chosen(longer, ledger)
    assert left
    assert former <= set(ledger)
    assert grow(longer, make_plan(longer), ledger).lost == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"recipes__student__lr": 5e-3}, "recipes.student.lr: there 0.001, here 0.005: 18 trials"),
        ({"methods": ["student", "kd"]}, "method heteroakd is not in the sweep file any more: 6 trials"),
        ({"final__seeds": [1]}, "final seed 2 is not in the sweep file any more: 3 trials"),
        ({"final__seeds": [2, 1]}, "final.seeds: there [1, 2], here [2, 1]: 6 trials"),
        ({"search__trials": 0}, "search.trials is 0, was 4: 12 trials"),
        ({"search__pruning": "median"}, "search.pruning is 'median', was 'halving': 12 trials"),
        ({"search__sampler": "random"}, "search.sampler is 'random', was 'sobol': 3 trials"),
        ({"search__rungs": [0.5]}, "search.rungs is [0.5], was [0.25, 0.5]: 12 trials"),
        ({"search__evaluations": 2}, "search.evaluations is 2, was 1: 13 trials"),
        ({"search__seed": 1}, "search.seed: there 0, here 1"),
        ({"compute__workers": 2}, "compute.workers: there 1, here 2: 19 trials"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_said_with_its_reason(change: dict[str, Any], reason: str) -> None:
    config, ledger = finished()
    lost = grow(config, make_plan(tiny_sweep(**change)), ledger).lost
    assert any(sentence.startswith(reason) for sentence in lost), lost


def test_a_search_whose_last_bracket_is_not_full_cannot_get_longer_unless_nothing_competes() -> None:
    """The trials of that bracket were halved without those that would come to it."""
    config, ledger = finished(search__trials=6)
    (reason,) = grow(config, make_plan(tiny_sweep(search__trials=8)), ledger).lost
    assert "bracket 2 of each study had 2 trials and would have 4 now: 6 trials" in reason
    config, ledger = finished(search__trials=6, search__rungs=[])
    assert grow(config, make_plan(tiny_sweep(search__trials=8, search__rungs=[])), ledger).lost == ()


def test_a_copy_of_the_data_in_another_folder_keeps_everything() -> None:
    camvid = {"kind": "camvid", "root": "/a"}
    config, ledger = finished(data={"scenes": camvid})
    assert grow(config, make_plan(tiny_sweep(data={"scenes": {**camvid, "root": "/b"}})), ledger).lost == ()
