"""How much of a phase is trained, and how long the rest takes. Pure: no clock.

Work is counted in student-steps. The number of trials that halving stops at each rung is known beforehand, so the work of a
phase is known before it begins. What another rule may stop counts as work that is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.planning.plan import Wave
from orchestrator.protocol import CohortProgress

if TYPE_CHECKING:  # it imports Ray Tune
    from orchestrator.controller.wave_scheduler import TrialState, WaveScheduler

_LEAST_SECONDS, _LEAST_SHARE = 20.0, 0.02
"""Before both are reached, nothing is said about the time that is left."""


@dataclass(frozen=True)
class Work:
    """Student-steps that are trained, and that are left; `images` has those of the trained ones, in pictures."""

    done: float
    left: float
    images: float

    @property
    def share(self) -> float:
        """Share of the work that is done, from 0 to 1."""
        total = self.done + self.left
        return self.done / total if total else 1.0

    def seconds_left(self, start: Work, seconds: float) -> float | None:
        """Time that the rest takes at the pace since `start`, `seconds` ago; None while too little is known."""
        trained = self.done - start.done
        known = start.left and trained / start.left >= _LEAST_SHARE and seconds >= _LEAST_SECONDS
        return self.left * seconds / trained if known else None


def work_of(scheduler: WaveScheduler, progress: Sequence[tuple[str, CohortProgress]]) -> Work:
    """The work of a phase.

    Args:
        scheduler: the state of its trials.
        progress: the id of its cohort, and where it is, for each worker group.
    """
    at = {(cohort_id, shown.wave): shown.step for cohort_id, shown in progress}
    by_wave: dict[tuple[str, int], list[TrialState]] = {}
    for state in scheduler.trials.values():
        by_wave.setdefault((scheduler.cohort_of(state.trial).cohort_id, state.wave), []).append(state)
    done = left = images = 0.0
    for cohort_id, cohort in scheduler.cohorts.items():
        for wave in cohort.waves:
            key = cohort_id, wave.index
            reached, rest = _wave_work(wave, by_wave.get(key), at.get(key, 0))
            done, left, images = done + reached, left + rest, images + reached * cohort.recipe.batch_size
    return Work(done, left, images)


def _wave_work(wave: Wave, states: Sequence[TrialState] | None, step: int) -> tuple[float, float]:
    """Student-steps of a wave that are trained, and that are left.

    Args:
        wave: the wave.
        states: its trials, or None if it was not begun.
        step: the step at which its running trials are.
    """
    if states is None:
        return 0.0, sum(expected_steps(bracket.size, wave.halvings, wave.steps) for bracket in wave.brackets)
    running = [state for state in states if state.status is None]
    step = max([step, *(max(state.scores, default=0) for state in running)])
    ended = [
        wave.steps
        if state.status == "ok"
        else max([0, *state.scores, *(report.step for report in state.reports)])
        for state in states
        if state.status is not None
    ]
    ahead = [rung - step for rung in wave.halvings if rung > step]
    return sum(ended) + len(running) * step, expected_steps(len(running), ahead, wave.steps - step)


def expected_steps(trials: int, rungs: Sequence[int], steps: int) -> float:
    """Student-steps that trials take together that train `steps` steps, if each rung lets the better half continue."""
    total, begun = 0.0, 0
    for rung in rungs:
        total += trials * (rung - begun)
        trials, begun = (trials + 1) // 2, rung
    return total + trials * (steps - begun)
