"""Which wave is next, which trials it has, which of them continue at a rung. A state machine without Ray, clock or disk.

Its answers depend on the plan and on scores by (trial, step), never on the order in which scores arrive. So a run
that was interrupted, and whose earlier scores come from the ledger, decides as one that was not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from orchestrator.controller.pruning import RULES
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.plan import Bracket, Cohort, Phase, Trial, Wave, bracket_trials
from orchestrator.planning.replay import RecordedTrial, is_hopeless
from orchestrator.planning.sampler import Scored
from orchestrator.protocol import Report, Status, WaveOrder


@dataclass
class TrialState:
    """Progress of one trial: its scores by step, and how it ended."""

    trial: Trial
    wave: int
    scores: dict[int, float] = field(default_factory=dict)
    status: Status | None = None
    reports: list[Report] = field(default_factory=list)


@dataclass(frozen=True)
class RungDecision:
    """Which trials of a bracket continue beyond a rung."""

    cohort_id: str
    wave: int
    rung: int
    keep: tuple[str, ...]
    drop: tuple[str, ...]


class WaveScheduler:
    """The waves of a phase's cohorts: opened in order, pruned at rungs, done when all of their trials have ended.

    Waves of one cohort may be open at the same time, unless one depends on how another ends.

    Args:
        config: the sweep file.
        cohorts: the cohorts of the phase.
        recorded: trials of earlier commands, by id. They count in decisions and are not trained again.
        retried: trials that failed in an earlier command and are trained again.
    """

    def __init__(
        self,
        config: SweepConfig,
        cohorts: Sequence[Cohort],
        recorded: Mapping[str, RecordedTrial],
        retried: Set[str] = frozenset(),
    ) -> None:
        self.cohorts = {cohort.cohort_id: cohort for cohort in cohorts}
        self._cohort_of_study = {
            bracket.study.study_id: cohort
            for cohort in cohorts
            for wave in cohort.waves
            for bracket in wave.brackets
        }
        self.config = config
        self._recorded = recorded
        self._retried = retried
        self._next_wave = dict.fromkeys(self.cohorts, 0)
        self._open: dict[tuple[str, int], list[list[str]]] = {}  # trials by bracket, of (cohort, wave)
        self._decided: set[tuple[str, int, int, int]] = set()  # cohort, wave, bracket, rung
        self.trials: Mapping[str, TrialState] = {}
        """By trial id, in the order of the plan. Other threads iterate over it: it is replaced, never changed."""

    def open_next(self, cohort_id: str) -> WaveOrder | None:
        """The next wave with a trial to train; None if there is none, or none while other waves are open."""
        cohort = self.cohorts[cohort_id]
        while self.unopened(cohort_id):
            wave = cohort.waves[self._next_wave[cohort_id]]
            if any(self._must_wait(wave, bracket) for bracket in wave.brackets):
                return None
            self._next_wave[cohort_id] += 1
            brackets = [self._bracket_trials(cohort, wave.index, bracket) for bracket in wave.brackets]
            waiting = tuple(
                t for trials in brackets for t in trials if self.trials[t.trial_id].status is None
            )
            if waiting:
                self._open[cohort_id, wave.index] = [
                    [trial.trial_id for trial in trials] for trials in brackets
                ]
                retried = frozenset(trial.trial_id for trial in waiting) & self._retried
                return WaveOrder(wave, waiting, retried)
        return None

    def open_first(self) -> list[Cohort]:
        """Open the next wave of each cohort; returns the cohorts that have one."""
        return [cohort for cohort in self.cohorts.values() if self.open_next(cohort.cohort_id) is not None]

    def unopened(self, cohort_id: str) -> int:
        """Number of waves of a cohort that were not opened yet."""
        return len(self.cohorts[cohort_id].waves) - self._next_wave[cohort_id]

    def cohort_of(self, trial: Trial) -> Cohort:
        """The cohort that a trial belongs to."""
        return self._cohort_of_study[trial.study_id]

    def is_done(self, cohort_id: str) -> bool:
        """Whether every wave was opened and every trial has ended without being stopped."""
        cohort = self.cohorts[cohort_id]
        statuses = (s.status for s in self.trials.values() if self.cohort_of(s.trial) is cohort)
        return not self.unopened(cohort_id) and all(status not in (None, "stopped") for status in statuses)

    def is_running(self, cohort_id: str, wave: int) -> bool:
        """Whether a wave has a trial that has not ended."""
        return any(
            self.trials[t].status is None for trials in self._open.get((cohort_id, wave), []) for t in trials
        )

    def _must_wait(self, wave: Wave, bracket: Bracket) -> bool:
        """Whether this bracket's trials depend on trials of the same study that have not ended."""
        earlier = self._earlier(bracket, wave.index)
        running = any(state.status is None for state in earlier)
        if wave.phase in ("selection", "final"):
            needed = [s for s in earlier if s.trial.phase != wave.phase]
            return any(s.status is None for s in needed) or (running and _may_become_hopeless(earlier))
        return running and (self.config.search.is_adaptive or _may_become_hopeless(earlier))

    def _earlier(self, bracket: Bracket, wave: int) -> list[TrialState]:
        study_id = bracket.study.study_id
        return [s for s in self.trials.values() if s.trial.study_id == study_id and s.wave < wave]

    def _bracket_trials(self, cohort: Cohort, wave: int, bracket: Bracket) -> list[Trial]:
        if is_hopeless([state.status for state in self._earlier(bracket, wave)]):
            return []
        history = self._history(bracket)
        drawn = bracket_trials(self.config, cohort, cohort.waves[wave], bracket, history)
        trials: dict[str, Trial] = {trial.trial_id: trial for trial in drawn}
        opened: dict[str, TrialState] = {}
        for trial in trials.values():
            known = self._recorded.get(trial.trial_id)
            state = TrialState(trial, wave)
            if known is not None:
                state = TrialState(trial, wave, dict(known.scores), known.status)
            opened[trial.trial_id] = self.trials.get(trial.trial_id, state)
        self.trials = {**self.trials, **opened}
        return list(trials.values())

    def _history(self, bracket: Bracket) -> Mapping[Phase, list[Scored]]:
        """The study's trials so far by phase, in the order of the plan."""
        found: dict[Phase, list[Scored]] = {}
        for state in self.trials.values():
            trial = state.trial
            if trial.study_id == bracket.study.study_id:
                scored = Scored(trial.params, state.scores, completed=state.status == "ok")
                found.setdefault(trial.phase, []).append(scored)
        return found

    def add_report(self, report: Report) -> bool:
        """Take a report into account; returns False if it was known. A poller that died may deliver one again."""
        state = self.trials[report.trial_id]
        if any((r.step, r.status) == (report.step, report.status) for r in state.reports):
            return False
        state.reports.append(report)
        if report.tune_miou is not None:
            state.scores[report.step] = report.tune_miou
        if report.status is not None:
            state.status = report.status
        return True

    def decisions(self) -> list[RungDecision]:
        """Decisions that have become possible: all trials of a bracket were scored at a rung or have ended before it."""
        made: list[RungDecision] = []
        for (cohort_id, wave), brackets in list(self._open.items()):
            for number, trials in enumerate(brackets):
                made += self._bracket_decisions(cohort_id, wave, number, [self.trials[t] for t in trials])
            if not self.is_running(cohort_id, wave):
                del self._open[cohort_id, wave]
        return made

    def _bracket_decisions(
        self, cohort_id: str, wave: int, number: int, states: Sequence[TrialState]
    ) -> Iterator[RungDecision]:
        for rung in self.cohorts[cohort_id].waves[wave].rungs:
            key = (cohort_id, wave, number, rung)
            if key in self._decided:
                continue
            if any(rung not in s.scores and s.status is None for s in states):
                break
            self._decided.add(key)
            scores = {s.trial.trial_id: s.scores for s in states if rung in s.scores}
            yield RungDecision(cohort_id, wave, rung, *RULES[self.config.search.pruning](scores, rung))


def _may_become_hopeless(states: Sequence[TrialState]) -> bool:
    """Whether the trials that have not ended can still make the study hopeless."""
    return is_hopeless(["failed" if s.status is None else s.status for s in states])
