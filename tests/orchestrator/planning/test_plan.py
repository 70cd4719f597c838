"""Plans: pure, complete, and independent of settings that change no result."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import UsageError
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.method_settings import apply_params
from orchestrator.planning.plan import Cohort, Trial, bracket_trials, make_plan
from tests.orchestrator.sweep_files import smoke, tiny_sweep


def all_trials(config: SweepConfig, cohort: Cohort) -> list[Trial]:
    return [
        trial
        for wave in cohort.waves
        for bracket in wave.brackets
        for trial in bracket_trials(config, cohort, wave, bracket, {})
    ]


@given(trials=st.integers(1, 40), bracket=st.integers(1, 9), spare=st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_each_study_has_exactly_its_trials_and_no_wave_has_too_many(
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
    assert len(set(first)) == len(first) == 3 * 8  # final trials have no ids before the search is over


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
def test_a_setting_that_changes_results_changes_every_id(change: str, value: float) -> None:
    plain, changed = tiny_sweep(), tiny_sweep(**{change: value})
    ids = [
        {t.trial_id for t in all_trials(config, make_plan(config).students[0])} for config in (plain, changed)
    ]
    assert not ids[0] & ids[1]


def test_a_new_method_does_not_change_the_trials_of_the_others() -> None:
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


def test_repeats_of_a_search_share_nothing_but_the_pair_and_leave_the_first_as_it_was() -> None:
    once, thrice = (tiny_sweep(search__trials=6, search__bracket=4, search__repeats=n) for n in (1, 3))
    (single,), (cohort,) = make_plan(once).students, make_plan(thrice).students
    first = {t.trial_id for t in all_trials(once, single)}
    trials = all_trials(thrice, cohort)
    assert {t.trial_id for t in trials if t.repeat == 0} == first
    drawn = [{str(t.params) for t in trials if t.repeat == repeat and t.params} for repeat in range(3)]
    seeds = [
        {wave.stream_seed for wave in cohort.waves if wave.brackets[0].study.repeat == repeat}
        for repeat in range(3)
    ]
    for one, other in combinations(range(3), 2):
        assert not drawn[one] & drawn[other]
        assert not seeds[one] & seeds[other]
    assert [wave.index for wave in cohort.waves] == list(range(len(cohort.waves)))
    assert all(len({b.study.repeat for b in wave.brackets}) == 1 for wave in cohort.waves)


def test_brackets_and_finalists_train_with_seeds_of_their_own_and_the_drawn_configurations_stay() -> None:
    plain = tiny_sweep(search__trials=8)
    seeded = tiny_sweep(search__trials=8, search__training_seeds=[7, 8], search__finalists=3)
    (cohort,) = make_plan(seeded).students
    seeds = [(wave.phase, wave.stream_seed) for wave in cohort.waves]
    assert seeds == [
        ("search", 7), ("search", 8), ("selection", 101), ("selection", 102), ("final", 1), ("final", 2)
    ]  # fmt: skip
    drawn = [
        [(t.study_id, t.params) for t in all_trials(config, make_plan(config).students[0])]
        for config in (plain, seeded)
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "search.training_seeds=[0, 2]",
            r"final.seeds are \[1, 2\], must have none of .* \[0, 2, 101, 102\]",
        ),
        ("search.training_seeds=[101]", r"have \[101\] twice"),
        ("search.finalist_seeds=[1, 9]", r"must have none of the selection's seeds \[0, 1, 9\]"),
    ],
)
def test_a_final_run_never_has_a_seed_that_took_part_in_the_choice(change: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        smoke("search.finalists=1", change)


def test_the_student_alone_searches_its_recipe_and_keeps_the_recipe_hash_of_the_pair() -> None:
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
    _, recipe = apply_params({"recipe.lr": 2.0}, study.method_config, study.recipe, study.space)
    assert math.isclose(recipe.lr, 2 * config.recipes["student"].lr)


def test_combined_methods_have_a_weight_each_and_spaces_around_the_plus_do_not_matter() -> None:
    combined = {"name": "kd + cwd", "config": {"kd.kd_weight": 2.0}}
    config = tiny_sweep(methods=["student", combined])
    study = make_plan(config).studies[1]
    assert study.method == study.title == "kd+cwd"
    assert study.method_config == {"kd.kd_weight": 2.0}
    assert "cwd.cwd_weight" in study.space.parameters
    assert "kd.kd_weight" not in study.space.parameters
