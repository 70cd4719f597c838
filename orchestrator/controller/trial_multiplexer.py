"""Shares Tune's one process among all trials: one trial has it, the others wait without a process. No Ray.

Tune's searcher and scheduler use it together. A trial that Tune does not know yet is *new*; one that Tune knows and
that has no process is *paused*.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MAX_DEATHS_IN_A_ROW = 10


class PollerDiedError(Exception):
    """Tune's process died again and again without a poll in between."""


class TrialMultiplexer:
    """Which trial has the process. While there is a trial, one of them has it: otherwise no report would be read."""

    def __init__(self) -> None:
        self._new: dict[str, None] = {}
        self._paused: dict[str, Any] = {}
        self._running: str | None = None
        self._next: str | None = None  # trial that gets the process next, if it matters which
        self._deaths = 0

    def add(self, trial_ids: Iterable[str]) -> None:
        """Add the trials of a wave. A trial that is in two waves is added once."""
        known = {*self._paused, self._running}
        self._new |= {trial_id: None for trial_id in trial_ids if trial_id not in known}

    def is_empty(self) -> bool:
        """Whether every trial has ended."""
        return not (self._new or self._paused or self._running)

    def start_new(self) -> str | None:
        """Give the process to a new trial, if one is next."""
        trial_id = self._choose()
        if trial_id not in self._new:
            return None
        del self._new[trial_id]
        return self._run(trial_id)

    def next_paused(self) -> Any | None:
        """Tune's object of the paused trial that is next, if one is. It stays paused until `resumed`."""
        trial_id = self._choose()
        return None if trial_id is None else self._paused.get(trial_id)

    def resumed(self, trial_id: str) -> None:
        """Called with the first poll or error of a trial after Tune gave it the process: it is no longer paused."""
        if self._paused.pop(trial_id, None) is not None:
            self._run(trial_id)

    def _choose(self) -> str | None:
        if self._running is not None:
            return None
        return self._next or next(iter([*self._paused, *self._new]), None)

    def _run(self, trial_id: str) -> str:
        self._running, self._next = trial_id, None
        return trial_id

    def polled(self) -> None:
        """The process has delivered a poll."""
        self._deaths = 0

    def pause(self, trial: Any, next_trial_id: str) -> None:
        """The running trial gives the process to another one, which has unread reports.

        Args:
            trial: Tune's object of the running trial.
            next_trial_id: trial that gets the process.
        """
        assert self._running is not None
        self._paused[self._running] = trial
        self._release(next_trial_id)

    def end(self, next_trial_id: str | None) -> None:
        """The running trial has ended; `next_trial_id` gets the process, or the first waiting trial if it is None."""
        self._release(next_trial_id)

    def _release(self, next_trial_id: str | None) -> None:
        # With an unknown trial nobody would get the process, and Tune would look for work for ever.
        known = next_trial_id is None or next_trial_id in self._new or next_trial_id in self._paused
        assert known, next_trial_id
        self._running, self._next = None, next_trial_id

    def lost_process(self) -> None:
        """The process died, and Tune gives up the running trial. It becomes a new one and is next.

        Raises:
            PollerDiedError: the process died too often.
        """
        assert self._running is not None
        trial_id, self._running = self._running, None
        self._new[trial_id] = None
        self._next = trial_id
        self._deaths += 1
        if self._deaths >= MAX_DEATHS_IN_A_ROW:
            raise PollerDiedError(
                f"the process that reads the trials' reports for Ray Tune died {self._deaths} times in a row; is the head "
                "out of memory? The same command goes on from here"
            )
