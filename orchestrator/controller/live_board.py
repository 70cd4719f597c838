"""Writes the leaderboard while a sweep runs, so that it can be opened from the first minute on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime

from orchestrator.controller.phase_runner import PhaseView
from orchestrator.controller.run_state import Run
from orchestrator.controller.worker_groups import in_a_thread
from orchestrator.leaderboard.files import write_leaderboard
from orchestrator.leaderboard.training_curves import TrialCurve, trial_curve
from orchestrator.leaderboard.unfinished import WRITING_SECONDS, Unfinished
from orchestrator.ledger.row_builders import curve_rows
from orchestrator.planning.method_settings import method_family
from orchestrator.planning.pair_names import short_names_of

_SHARE = 0.05  # of the driver's time, at most: a large run's board takes seconds


class LiveBoard:
    """The board of a running sweep, written in a thread of its own: neither the driver nor a worker waits for it.

    An error of the first writing that fails is printed as a warning; later writings try again in silence.
    """

    def __init__(
        self, run: Run, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run = run
        self._say = say
        self._clock = clock
        self._due = clock()
        self._pause = WRITING_SECONDS
        self._writing: Future[None] | None = None
        self._has_failed = False

    def watch(self, view: PhaseView) -> None:
        """Begin to write the board if a minute has passed since the last writing began."""
        if self._clock() < self._due or (self._writing is not None and not self._writing.done()):
            return
        now, names = datetime.now().astimezone(), short_names_of(self._run.config.pairs)
        unfinished = Unfinished(self._run.plan.trainings, now, _running(view), self._pause, names)
        self._writing = in_a_thread("board", lambda: self._write(unfinished))

    def close(self) -> None:
        """Wait until the last writing has ended, so that it cannot replace the final board."""
        if self._writing is not None:
            self._writing.result()

    def _write(self, unfinished: Unfinished) -> None:
        begun = self._clock()
        try:
            write_leaderboard([self._run.ledger], unfinished=unfinished)
        except Exception as error:  # a page is no reason to end a sweep
            if not self._has_failed:
                line = (str(error).strip().splitlines() or [type(error).__name__])[0]
                self._say(
                    f"WARNING: the board of the running sweep could not be written, the sweep goes on: {line}"
                )
            self._has_failed = True
        took = self._clock() - begun
        self._pause = max(WRITING_SECONDS, took / _SHARE)
        self._due = begun + self._pause


def _running(view: PhaseView) -> tuple[TrialCurve, ...]:
    """The curves so far of the trials that are training; the tables have those of ended trials."""
    states = [state for state in view.scheduler.trials.values() if state.status is None and state.reports]
    return tuple(
        trial_curve(
            curve_rows(state.trial, list(state.reports)),
            trial_id=state.trial.trial_id,
            dataset=state.trial.data,
            pair=state.trial.pair,
            method=state.trial.title,
            family="teacher" if state.trial.phase == "teacher" else method_family(state.trial.method),
            phase=state.trial.phase,
            compare=state.trial.compare,
        )
        for state in states
    )
