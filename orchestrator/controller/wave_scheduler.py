"""Which wave is next, who stands in it, who goes on at a rung. A state machine without Ray, clock or disk.

Its answers depend on the plan and on scores by (trial, step), never on the order in which scores arrive. So a run
that was cut, and whose earlier scores come from the ledger, decides as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from orchestrator.controller.cohort_channel import WaveOrder
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.plan import Bracket, Cohort, Trial, Wave, bracket_trials
from orchestrator.planning.sampler import Scored
from orchestrator.protocol import Report, Status

HOPELESS = 3  # failures of a study before it is stopped, where nothing else came of it


@dataclass
class TrialState:
    """How far a trial is: its scores by step, and how it ended."""

    trial: Trial
    wave: int
    scores: dict[int, float] = field(default_factory=dict)
    status: Status | None = None
    reports: list[Report] = field(default_factory=list)


@dataclass(frozen=True)
class RecordedTrial:
    """What the ledger holds of a trial that ended in an earlier command."""

    status: Status
    scores: Mapping[int, float]


@dataclass(frozen=True)
class RungDecision:
    """Who of a bracket goes on beyond a rung."""

    cohort_id: str
    wave: int
    rung: int
    keep: tuple[str, ...]
    drop: tuple[str, ...]


class WaveScheduler:
    """The waves of a phase's cohorts: opened in order, halved at rungs, over when all of their trials have ended.

    Waves of a cohort may be open beside each other, as far as one does not depend on how another ends.
    """

    def __init__(
        self,
        config: SweepConfig,
        cohorts: Sequence[Cohort],
        recorded: Mapping[str, RecordedTrial],
        retried: Set[str] = frozenset(),
    ) -> None:
        self.cohorts = {cohort.cohort_id: cohort for cohort in cohorts}
        self._config = config
        self._recorded = recorded
        self._retried = retried
        self._next_wave = dict.fromkeys(self.cohorts, 0)
        self._open: dict[tuple[str, int], list[list[str]]] = {}  # trials by bracket, of (cohort, wave)
        self._decided: set[tuple[str, int, int, int]] = set()  # cohort, wave, bracket, rung
        self.trials: Mapping[str, TrialState] = {}
        """By trial id, in the order of the plan. Other threads walk through it: it is replaced and never changed."""

    def open_next(self, cohort_id: str) -> WaveOrder | None:
        """The next wave that has a trial left to train; None when none follows, or none as long as others are open.

        Trials of the wave that the ledger knows already count in its decisions and are not handed out.
        """
        cohort = self.cohorts[cohort_id]
        while self.unopened(cohort_id):
            wave = cohort.waves[self._next_wave[cohort_id]]
            if any(self._must_wait(wave, bracket) for bracket in wave.brackets):
                return None
            self._next_wave[cohort_id] += 1
            brackets = [self._members(cohort, wave.index, bracket) for bracket in wave.brackets]
            waiting = tuple(
                t for members in brackets for t in members if self.trials[t.trial_id].status is None
            )
            if waiting:
                self._open[cohort_id, wave.index] = [
                    [trial.trial_id for trial in members] for members in brackets
                ]
                retried = frozenset(trial.trial_id for trial in waiting) & self._retried
                return WaveOrder(wave, waiting, retried)
        return None

    def open_first(self) -> list[Cohort]:
        """Opens each cohort's next wave; returns those cohorts that have one, in which a trial is left to train."""
        return [cohort for cohort in self.cohorts.values() if self.open_next(cohort.cohort_id) is not None]

    def unopened(self, cohort_id: str) -> int:
        """How many of a cohort's waves were not yet opened."""
        return len(self.cohorts[cohort_id].waves) - self._next_wave[cohort_id]

    def is_done(self, cohort_id: str) -> bool:
        """Whether every wave was opened and every trial has ended by itself."""
        cohort = self.cohorts[cohort_id]
        mine = (s.status for s in self.trials.values() if cohort.holds(s.trial.study_id))
        return not self.unopened(cohort_id) and all(status not in (None, "stopped") for status in mine)

    def _must_wait(self, wave: Wave, bracket: Bracket) -> bool:
        """Whether this bracket's trials depend on trials of the same study that have not ended."""
        before = self._before(bracket, wave.index)
        going = any(standing.status is None for standing in before)
        if wave.phase == "final":
            searched = any(s.status is None for s in before if s.trial.phase == "search")
            return searched or (going and _may_become_hopeless(before))
        return going and (self._config.search.sampler != "sobol" or _may_become_hopeless(before))

    def _before(self, bracket: Bracket, wave: int) -> list[TrialState]:
        study_id = bracket.study.study_id
        return [s for s in self.trials.values() if s.trial.study_id == study_id and s.wave < wave]

    def _members(self, cohort: Cohort, wave: int, bracket: Bracket) -> list[Trial]:
        if is_hopeless([standing.status for standing in self._before(bracket, wave)]):
            return []
        history = list(self._history(bracket))
        trials = bracket_trials(self._config, cohort, cohort.waves[wave], bracket, history)
        members: dict[str, Trial] = {trial.trial_id: trial for trial in trials}
        opened: dict[str, TrialState] = {}
        for trial in members.values():
            known = self._recorded.get(trial.trial_id)
            standing = TrialState(trial, wave)
            if known is not None:
                standing = TrialState(trial, wave, dict(known.scores), known.status)
            opened[trial.trial_id] = self.trials.get(trial.trial_id, standing)
        self.trials = {**self.trials, **opened}
        return list(members.values())

    def _history(self, bracket: Bracket) -> Iterator[Scored]:
        """What became of the study's search trials so far, in the order of the plan."""
        for standing in self.trials.values():
            trial = standing.trial
            if trial.study_id == bracket.study.study_id and trial.phase == "search":
                yield Scored(trial.params, standing.scores, completed=standing.status == "ok")

    def running(self, cohort_id: str, wave: int) -> bool:
        """Whether a wave has a trial that has not ended."""
        return any(
            self.trials[t].status is None
            for members in self._open.get((cohort_id, wave), [])
            for t in members
        )

    def take(self, report: Report) -> bool:
        """Takes in a report; returns whether it was news."""
        standing = self.trials[report.trial_id]
        if any((r.step, r.status) == (report.step, report.status) for r in standing.reports):
            return False
        standing.reports.append(report)
        if report.tune_miou is not None:
            standing.scores[report.step] = report.tune_miou
        if report.status is not None:
            standing.status = report.status
        return True

    def decisions(self) -> list[RungDecision]:
        """Decisions that have become possible: at a rung all of a bracket have been scored or ended before it."""
        made: list[RungDecision] = []
        for (cohort_id, wave), brackets in list(self._open.items()):
            for number, members in enumerate(brackets):
                made += self._of_bracket(cohort_id, wave, number, [self.trials[t] for t in members])
            if not self.running(cohort_id, wave):
                del self._open[cohort_id, wave]
        return made

    def _of_bracket(
        self, cohort_id: str, wave: int, number: int, standings: Sequence[TrialState]
    ) -> Iterator[RungDecision]:
        for rung in self.cohorts[cohort_id].waves[wave].rungs:
            key = (cohort_id, wave, number, rung)
            if key in self._decided:
                continue
            if any(rung not in s.scores and s.status is None for s in standings):
                break
            self._decided.add(key)
            yield RungDecision(
                cohort_id, wave, rung, *halve([s for s in standings if rung in s.scores], rung)
            )


def _may_become_hopeless(standings: Sequence[TrialState]) -> bool:
    """Whether those that have not ended can still make a study hopeless."""
    return is_hopeless(["failed" if s.status is None else s.status for s in standings])


def is_hopeless(statuses: Sequence[Status | None]) -> bool:
    """Whether a study is stopped: its first trials, three or more, failed, and none has ended well."""
    return len(statuses) >= HOPELESS and all(status == "failed" for status in statuses)


def halve(standings: Sequence[TrialState], rung: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The better half at a rung, rounded up, and the others; ties go to the smaller trial id."""
    ranked = sorted(standings, key=lambda s: (-s.scores[rung], s.trial.trial_id))
    kept = math.ceil(len(ranked) / 2)
    names = [standing.trial.trial_id for standing in ranked]
    return tuple(names[:kept]), tuple(names[kept:])
