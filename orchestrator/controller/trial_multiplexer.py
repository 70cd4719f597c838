"""In whose name Tune's one process visits the office: one trial has it, the others wait without a process.

Without Ray: searcher and scheduler, Tune's two doors, share it. A trial that Tune does not know yet is *new*; one that
Tune knows and that has no process is *paused*.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

DEATHS_IN_A_ROW = 10


class PollerDiedError(Exception):
    """Tune's process died again and again without a visit in between."""


class TrialMultiplexer:
    """Whose turn it is. As long as a trial is there, one has its turn: else nobody would hear of the others' news."""

    def __init__(self) -> None:
        self._new: dict[str, None] = {}
        self._paused: dict[str, Any] = {}
        self._has_process: str | None = None
        self._called: str | None = None  # who has its turn next, where that is not all the same
        self._deaths = 0

    def enter(self, trial_ids: Iterable[str]) -> None:
        """Trials of a wave that was opened; one that another wave holds too is there already."""
        there = {*self._paused, self._has_process}
        self._new |= {trial_id: None for trial_id in trial_ids if trial_id not in there}

    def nobody_is_left(self) -> bool:
        """Whether every trial has ended."""
        return not (self._new or self._paused or self._has_process)

    def begin(self) -> str | None:
        """Gives the process to a new trial, if it is the turn of one."""
        trial_id = self._next()
        if trial_id not in self._new:
            return None
        del self._new[trial_id]
        return self._take(trial_id)

    def resume(self) -> Any | None:
        """Gives the process to a paused trial, if it is the turn of one; returns what Tune knows it by."""
        trial_id = self._next()
        if trial_id not in self._paused:
            return None
        self._take(trial_id)
        return self._paused.pop(trial_id)

    def _next(self) -> str | None:
        if self._has_process is not None:
            return None
        return self._called or next(iter([*self._paused, *self._new]), None)

    def _take(self, trial_id: str) -> str:
        self._has_process, self._called = trial_id, None
        return trial_id

    def visited(self) -> None:
        """The process came back from a visit."""
        self._deaths = 0

    def pause(self, trial: Any, follow: str) -> None:
        """The trial that has the process gives it up for another that has news."""
        assert self._has_process is not None
        self._paused[self._has_process] = trial
        self._call(follow)

    def end(self, follow: str | None) -> None:
        """The trial that has the process is over."""
        self._call(follow)

    def _call(self, follow: str | None) -> None:
        # Nobody would have the turn of a stranger, and Tune would look for work for ever.
        assert follow is None or follow in self._new or follow in self._paused, follow
        self._has_process, self._called = None, follow

    def lose(self) -> None:
        """The process died, and Tune gives up the trial that had it: as a new one it has its turn at once.

        Raises:
            PollerDiedError: there is no sense in going on.
        """
        assert self._has_process is not None
        trial_id, self._has_process = self._has_process, None
        self._new[trial_id] = None
        self._called = trial_id
        self._deaths += 1
        if self._deaths >= DEATHS_IN_A_ROW:
            raise PollerDiedError(
                f"the process that reads the trials' reports for Ray Tune died {self._deaths} times in a row; is the head "
                "out of memory? The same command goes on from here"
            )
