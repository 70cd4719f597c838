"""Waves, rungs and decisions, without Ray: the state machine alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.controller.wave_scheduler import WaveScheduler
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.plan import make_plan
from orchestrator.planning.replay import RecordedTrial
from orchestrator.planning.sampler import Scored
from orchestrator.planning.selection import best_finalist
from orchestrator.protocol import Report, WaveOrder
from tests import examples
from tests.orchestrator.sweep_files import tiny_sweep

CONFIG = tiny_sweep(search__trials=6, search__bracket=4, search__wave=8)
PLAN = make_plan(CONFIG)
COHORT = PLAN.students[0]
RUNGS = COHORT.waves[0].rungs
STEPS = COHORT.recipe.steps
STOPS = (*RUNGS, STEPS)


def score(trial_id: str, step: int) -> float:
    return random.Random(f"{trial_id}{step}").random()


@dataclass
class AtWork:
    """A group: its wave, who still trains, and where it stops next."""

    wave: WaveOrder
    alive: list[str]
    stops: list[int]


def play(order: random.Random, cut_after: int | None = None, recorded: dict[str, RecordedTrial] | None = None,
         fails: frozenset[str] = frozenset(), groups: int = 1, config: SweepConfig = CONFIG,
         ) -> tuple[WaveScheduler, dict[str, RecordedTrial], set[str]]:  # fmt: skip
    """A cohort in miniature: trains waves at so many groups, reports in a random order, obeys decisions.

    Returns the scheduler, what a ledger would hold after `cut_after` ended trials, and who was handed out.
    """
    cohort = COHORT if config is CONFIG else make_plan(config).students[0]
    scheduler = WaveScheduler(config, [cohort], recorded or {})
    ledger: dict[str, RecordedTrial] = dict(recorded or {})
    handed: set[str] = set()
    ended = 0

    def end(report: Report) -> bool:
        nonlocal ended
        scheduler.add_report(report)
        ledger[report.trial_id] = RecordedTrial(report.status, dict(scheduler.trials[report.trial_id].scores))  # type: ignore[arg-type]
        ended += 1
        return cut_after is not None and ended >= cut_after

    at_work: list[AtWork] = []
    while True:
        while len(at_work) < groups and (wave := scheduler.open_next(cohort.cohort_id)) is not None:
            alive = [t.trial_id for t in wave.trials]
            assert not handed & set(alive)
            handed |= set(alive)
            at_work.append(AtWork(wave, alive, [*wave.wave.rungs, STEPS]))
        if not at_work:
            assert not scheduler.unopened(cohort.cohort_id)
            return scheduler, ledger, handed
        group = order.choice(at_work)
        stop = group.stops.pop(0)
        order.shuffle(group.alive)
        for trial_id in list(group.alive):
            if trial_id in fails:
                group.alive.remove(trial_id)
                if end(Report(trial_id, stop - 1, status="failed")):
                    return scheduler, ledger, handed
                continue
            last = stop == STEPS
            report = Report(trial_id, stop, status="ok" if last else None, tune_miou=score(trial_id, stop))
            if last:
                if end(report):
                    return scheduler, ledger, handed
            else:
                scheduler.add_report(report)
        for decision in scheduler.decisions():
            (asked,) = (other for other in at_work if other.wave.index == decision.wave)
            if asked is group:  # of another group only where all of a bracket are recorded
                assert decision.rung >= stop
            for trial_id in set(decision.drop) & set(asked.alive):
                asked.alive.remove(trial_id)
                scored = score(trial_id, decision.rung)
                if end(Report(trial_id, decision.rung, status="pruned", tune_miou=scored)):
                    return scheduler, ledger, handed
        if not group.stops:
            assert not scheduler.is_running(cohort.cohort_id, group.wave.index)
            at_work.remove(group)


def outcome(ledger: dict[str, RecordedTrial]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {trial_id: (str(r.status), tuple(sorted(r.scores))) for trial_id, r in ledger.items()}


@given(seed=st.integers(0, 10**6))
@settings(max_examples=examples(30), deadline=None)
def test_decisions_do_not_depend_on_who_reports_first(seed: int) -> None:
    _, expected, _ = play(random.Random(0))
    _, found, _ = play(random.Random(seed))
    assert outcome(found) == outcome(expected)


@pytest.mark.parametrize(
    ("sampler", "finalists", "pruning"),
    [
        ("sobol", 0, "halving"),
        ("random", 2, "median"),
        ("grid", 0, "none"),
    ],
)
@given(
    seed=st.integers(0, 10**6),
    groups=st.integers(2, 4),
    doomed=st.sets(st.integers(0, 17)),
    cut=st.integers(1, 30),
)
@settings(max_examples=examples(40), deadline=None)
def test_waves_trained_beside_each_other_end_as_one_after_the_other(
    sampler: str, finalists: int, pruning: str, seed: int, groups: int, doomed: set[int], cut: int
) -> None:
    """Whoever fails, and wherever the run is cut: neither who trains nor with which parameters changes."""
    check_company_and_cuts(sampler, finalists, pruning, seed, groups, doomed, cut)


@pytest.mark.parametrize(
    ("sampler", "pruning", "cut"),
    [("optuna", "halving", 5), ("optuna", "median", 14), ("hyperopt", "halving", 14)],
)
def test_a_searcher_draws_the_same_points_after_a_cut(sampler: str, pruning: str, cut: int) -> None:
    """The cuts are in the first and in the second of two brackets of three studies."""
    check_company_and_cuts(sampler, 0, pruning, seed=1, groups=2, doomed={1, 7}, cut=cut)


def check_company_and_cuts(
    sampler: str, finalists: int, pruning: str, seed: int, groups: int, doomed: set[int], cut: int
) -> None:
    config = tiny_sweep(
        search__trials=6,
        search__bracket=4,
        search__wave=8,
        search__sampler=sampler,
        search__finalists=finalists,
        search__pruning=pruning,
    )
    whole, _, _ = play(random.Random(0), config=config)
    fails = frozenset(t for number, t in enumerate(whole.trials) if number in doomed)
    _, expected, _ = play(random.Random(0), fails=fails, config=config)
    _, found, _ = play(random.Random(seed), fails=fails, groups=groups, config=config)
    assert outcome(found) == outcome(expected)
    _, ledger, _ = play(random.Random(seed), cut, fails=fails, groups=groups, config=config)
    _, resumed, _ = play(random.Random(seed + 1), recorded=ledger, fails=fails, groups=groups, config=config)
    assert outcome(resumed) == outcome(expected)


@given(seed=st.integers(0, 10**6), cut=st.integers(1, 23))
@settings(max_examples=examples(60), deadline=None)
def test_a_run_that_was_cut_anywhere_ends_as_one_that_was_not_and_trains_nothing_twice(
    seed: int, cut: int
) -> None:
    _, expected, _ = play(random.Random(0))
    _, ledger, _ = play(random.Random(seed), cut_after=cut)
    _, resumed, handed = play(random.Random(seed + 1), recorded=ledger)
    assert outcome(resumed) == outcome(expected)
    assert not handed & set(ledger)


def test_each_rung_keeps_the_better_half_of_each_study() -> None:
    _, ledger, _ = play(random.Random(0))
    scheduler, _, _ = play(random.Random(0))
    searched = [trial_id for trial_id in ledger if scheduler.trials[trial_id].trial.phase == "search"]
    # Brackets of 4 and 2 trials with two rungs leave 1 and 1; three studies.
    assert sum(ledger[trial_id].status == "ok" for trial_id in searched) == 3 * 2
    for study in PLAN.studies:
        members = [
            s
            for s in scheduler.trials.values()
            if s.trial.study_id == study.study_id and s.trial.bracket == 0 and s.trial.phase == "search"
        ]
        ranked = sorted(members, key=lambda s: -score(s.trial.trial_id, STOPS[0]))
        assert {len(s.scores) > 1 for s in ranked[:2]} == {True}
        assert {len(s.scores) for s in ranked[2:]} == {1}


def test_a_failed_trial_holds_nobody_up_and_its_place_is_not_filled() -> None:
    _, plain, _ = play(random.Random(0))
    first = next(iter(plain))
    _, ledger, _ = play(random.Random(0), fails=frozenset({first}))
    assert ledger[first].status == "failed"
    assert len(ledger) == len(plain)


def test_the_final_runs_take_the_best_finished_parameters_of_each_study() -> None:
    scheduler, ledger, _ = play(random.Random(0))
    for study in PLAN.studies:
        mine = [s for s in scheduler.trials.values() if s.trial.study_id == study.study_id]
        finished = [s for s in mine if s.trial.phase == "search" and s.status == "ok"]
        best = max(finished, key=lambda s: s.scores[STEPS])
        finals = [s for s in mine if s.trial.phase == "final"]
        assert {s.trial.seed for s in finals} == {1, 2}
        assert all(s.trial.params == best.trial.params for s in finals)
        assert all(ledger[s.trial.trial_id].status == "ok" for s in finals)


def test_finalists_are_the_best_search_trials_and_the_best_mean_of_search_and_fresh_seeds_is_the_choice() -> (
    None
):
    config = tiny_sweep(search__trials=6, search__bracket=4, search__wave=8, search__finalists=2)
    scheduler, _, _ = play(random.Random(0), config=config)
    for study in make_plan(config).studies:
        mine = [s for s in scheduler.trials.values() if s.trial.study_id == study.study_id]
        finished = [s for s in mine if s.trial.phase == "search" and s.status == "ok"]
        finished.sort(key=lambda s: -s.scores[STEPS])
        selection = [s for s in mine if s.trial.phase == "selection"]
        assert [(s.trial.params, s.trial.seed) for s in selection] == [
            (s.trial.params, seed) for seed in (101, 102) for s in finished[:2]
        ]
        first, second = (sum(s.scores[STEPS] for s in [finished[k], *selection[k::2]]) for k in (0, 1))
        best = finished[0 if first >= second else 1].trial.params
        assert all(s.trial.params == best for s in mine if s.trial.phase == "final")


def test_the_search_trial_of_a_finalist_counts_as_one_seed_of_its_mean() -> None:
    one, other = {"t": 1.0}, {"t": 2.0}
    searched = [Scored(one, {8: 0.9}, completed=True), Scored(other, {8: 0.5}, completed=True)]
    selected = [Scored(one, {8: 0.4}, completed=True), Scored(other, {8: 0.6}, completed=True)]
    assert best_finalist(searched, selected) == one


def test_a_finalist_that_failed_with_a_seed_is_behind_one_that_finished_with_all() -> None:
    good, unstable = {"t": 1.0}, {"t": 2.0}
    searched = [Scored(unstable, {8: 0.9}, completed=True), Scored(good, {8: 0.5}, completed=True)]
    selected = [
        Scored(unstable, {8: 0.9}, completed=True), Scored(good, {8: 0.5}, completed=True),
        Scored(unstable, {4: 0.8}, completed=False), Scored(good, {8: 0.4}, completed=True),
    ]  # fmt: skip
    assert best_finalist(searched, selected) == good
    assert best_finalist(searched, []) is None


def test_a_study_whose_every_trial_failed_has_no_final_run() -> None:
    study = PLAN.studies[1]
    scheduler, _, _ = play(random.Random(0))
    doomed = {
        t
        for t, s in scheduler.trials.items()
        if s.trial.study_id == study.study_id and s.trial.phase == "search"
    }
    scheduler, _, _ = play(random.Random(0), fails=frozenset(doomed))
    finals = {s.trial.study_id for s in scheduler.trials.values() if s.trial.phase == "final"}
    assert finals == {other.study_id for other in PLAN.studies} - {study.study_id}


@given(seed=st.integers(0, 10**6), cut=st.integers(1, 23), study=st.integers(0, 2))
@settings(max_examples=examples(40), deadline=None)
def test_a_study_whose_first_trials_all_fail_is_stopped_wherever_the_run_is_cut(
    seed: int, cut: int, study: int
) -> None:
    study_id = PLAN.studies[study].study_id
    whole, _, _ = play(random.Random(0))
    mine = {t: s.trial for t, s in whole.trials.items() if s.trial.study_id == study_id}
    doomed = frozenset(t for t, trial in mine.items() if trial.bracket == 0 and trial.phase == "search")
    _, expected, _ = play(random.Random(0), fails=doomed)
    assert set(expected) & set(mine) == doomed
    assert set(expected) - set(mine) == set(whole.trials) - set(mine)
    _, ledger, _ = play(random.Random(seed), cut_after=cut, fails=doomed)
    _, resumed, _ = play(random.Random(seed + 1), recorded=ledger, fails=doomed)
    assert outcome(resumed) == outcome(expected)


def test_a_report_told_twice_counts_once() -> None:
    scheduler = WaveScheduler(CONFIG, [COHORT], {})
    wave = scheduler.open_next(COHORT.cohort_id)
    assert wave is not None
    report = Report(wave.trials[0].trial_id, STOPS[0], tune_miou=0.5)
    assert scheduler.add_report(report)
    assert not scheduler.add_report(report)


def test_who_walks_through_the_trials_while_a_wave_is_opened_sees_them_as_they_were() -> None:
    """A thread draws the progress while another opens waves."""
    scheduler = WaveScheduler(CONFIG, [COHORT], {})
    assert scheduler.open_next(COHORT.cohort_id) is not None
    first = set(scheduler.trials)
    walk = iter(scheduler.trials)
    seen = {next(walk)}
    assert scheduler.open_next(COHORT.cohort_id) is not None
    assert seen | set(walk) == first < set(scheduler.trials)
