"""The planner: pure, complete, and blind to everything that decides no result."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.planning.config import SweepConfig
from orchestrator.planning.plan import Cohort, Trial, apply_params, bracket_trials, make_plan
from tests.orchestrator.sweep_files import tiny_sweep


def all_trials(config: SweepConfig, cohort: Cohort) -> list[Trial]:
    return [
        trial
        for wave in cohort.waves
        for bracket in wave.brackets
        for trial in bracket_trials(config, cohort, wave, bracket, [])
    ]


@given(trials=st.integers(1, 40), bracket=st.integers(1, 9), spare=st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_every_study_gets_exactly_its_trials_and_no_wave_is_overfull(
    trials: int, bracket: int, spare: int
) -> None:
    config = tiny_sweep(search__trials=trials, search__bracket=bracket, search__wave=bracket + spare)
    plan = make_plan(config)
    (cohort,) = plan.students
    searches = [wave for wave in cohort.waves if wave.phase == "search"]
    per_study = Counter(b.study.study_id for wave in searches for b in wave.brackets for _ in range(b.size))
    assert per_study == {study.study_id: trials for study in plan.studies}
    for wave in searches:
        assert sum(b.size for b in wave.brackets) <= bracket + spare
        assert len({b.study.study_id for b in wave.brackets}) == len(wave.brackets)


def test_trial_ids_are_unique_and_the_same_each_time() -> None:
    config = tiny_sweep(search__trials=8)
    first, second = (
        [t.trial_id for c in make_plan(config).students for t in all_trials(config, c)] for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == len(first) == 3 * 8  # final runs have no ids before the search has winners


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("operation__students_on_device", 2),
        ("operation__checkpoint_seconds", 1.0),
        ("operation__loader_workers", 1),
        ("budget__hours", 3.0),
    ],
)
def test_how_the_work_is_carried_out_changes_no_id(change: str, value: float) -> None:
    plain, changed = tiny_sweep(), tiny_sweep(**{change: value})
    assert make_plan(plain).plan_hash == make_plan(changed).plan_hash
    assert [t.trial_id for t in all_trials(plain, make_plan(plain).students[0])] == [
        t.trial_id for t in all_trials(changed, make_plan(changed).students[0])
    ]


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("recipes__student__lr", 2e-3),
        ("data__scenes__seed", 7),
        ("compute__workers", 2),
        ("protocol", "paper"),
    ],
)
def test_whatever_decides_a_result_changes_every_id(change: str, value: float) -> None:
    plain, changed = tiny_sweep(), tiny_sweep(**{change: value})
    ids = [
        {t.trial_id for t in all_trials(config, make_plan(config).students[0])} for config in (plain, changed)
    ]
    assert not ids[0] & ids[1]


def test_a_study_added_beside_others_leaves_their_trials_as_they_were() -> None:
    few, many = tiny_sweep(methods=["student", "kd"]), tiny_sweep()
    ids = [{t.trial_id for t in all_trials(config, make_plan(config).students[0])} for config in (few, many)]
    assert ids[0] < ids[1]


def test_all_methods_of_one_final_seed_form_a_wave() -> None:
    config = tiny_sweep()
    (cohort,) = make_plan(config).students
    finals = [wave for wave in cohort.waves if wave.phase == "final"]
    assert [wave.stream_seed for wave in finals] == [1, 2]
    for wave in finals:
        assert [b.study.method for b in wave.brackets] == ["student", "kd", "heteroakd"]


def test_the_student_alone_searches_its_recipe_and_is_ranked_under_the_pairs_own() -> None:
    config = tiny_sweep()
    plan = make_plan(config)
    trials = [t for t in all_trials(config, plan.students[0]) if t.method == "student"]
    assert len({t.recipe.lr for t in trials}) == len(trials)
    assert {t.recipe_hash for t in all_trials(config, plan.students[0])} == {trials[0].recipe_hash}
    default = trials[0]
    assert default.recipe == config.recipes["student"]


def test_a_scaled_recipe_parameter_multiplies_the_recipes_own_value() -> None:
    config = tiny_sweep()
    study = next(s for s in make_plan(config).studies if s.method == "student")
    _, recipe = apply_params(study, {"recipe.lr": 2.0})
    assert math.isclose(recipe.lr, 2 * config.recipes["student"].lr)


def test_methods_combine_with_a_weight_each_however_the_sum_is_spaced() -> None:
    combined = {"name": "kd + cwd", "config": {"kd.kd_weight": 2.0}}
    config = tiny_sweep(methods=["student", combined])
    study = make_plan(config).studies[1]
    assert study.method == study.title == "kd+cwd"
    assert study.method_config == {"kd.kd_weight": 2.0}
    assert "cwd.cwd_weight" in study.space.parameters
    assert "kd.kd_weight" not in study.space.parameters
