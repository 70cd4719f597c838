"""What a worker is at: so that a hang ends, and a death or a hang is laid to the trial that caused it."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from orchestrator.controller.cohort_channel import WorkerPosition

TELL_SECONDS = 30.0  # how long a hung worker tries to say so


class Watchdog:
    """A worker's: turned to one place after the other, watched by a thread of its own.

    Where one place takes longer than the limit, the process tells the desk and ends, and Ray Train starts it again
    from the checkpoint. A worker that holds Python's lock for as long is ended by `faulthandler`, which needs none.

    Args:
        desk: the cohort's.
        leads: whether this worker speaks: of those that are at the same place at the same time rank 0 does, for all.
        limit_seconds: the longest that one place may take; None for any time.
        careful: tell the desk every place beforehand, since an earlier attempt died at one of them.
    """

    def __init__(self, desk: Any, *, leads: bool, limit_seconds: float | None, careful: bool) -> None:
        self._desk = desk
        self._leads = leads
        self.careful = careful
        self._at: tuple[WorkerPosition, float] | None = None
        self._main = threading.get_ident()
        self._left = threading.Event()
        if limit_seconds is not None:
            threading.Thread(target=self._watch, args=(limit_seconds,), name="attention", daemon=True).start()

    def turn_to(self, trial_id: str | None, step: int) -> None:
        """Here the worker is from now on."""
        place = WorkerPosition(trial_id, step)
        self._tell(place)
        self._at = (place, time.monotonic())

    def still_there(self) -> None:
        """The worker moves on within the place it is at."""
        if self._at is not None:
            self._at = (self._at[0], time.monotonic())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, the worker waits for another, whose place is looked after there; then it is where it was."""
        place, self._at = self._at, None
        yield
        self._at = None if place is None else (place[0], time.monotonic())

    def rest(self) -> None:
        """The worker waits for others, or for the storage, as long as it takes."""
        self._tell(None)
        self._at = None

    def leave(self) -> None:
        """The cohort is over; what the worker does next another looks after."""
        self._at = None
        self._left.set()

    def _tell(self, place: WorkerPosition | None) -> None:
        """Where care is needed the desk knows every place, so that no trial is blamed for what all share."""
        if self.careful and self._leads:
            ray.get(self._desk.about_to.remote(place))

    def got_on(self, position: tuple[int, int]) -> bool:
        """A checkpoint stands at this position: what killed an earlier attempt may lie behind. Returns whether care is needed."""
        return bool(ray.get(self._desk.got_on.remote(position)))

    def _watch(self, limit: float) -> None:
        while not self._left.is_set():
            faulthandler.dump_traceback_later(2 * limit + 60, exit=True)
            self._left.wait(limit / 4)
            at = self._at
            if at is not None and time.monotonic() - at[1] > limit:
                self._give_up(at[0], limit)
        faulthandler.cancel_dump_traceback_later()

    def _give_up(self, place: WorkerPosition, limit: float) -> None:
        frame = sys._current_frames().get(self._main)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        try:
            ray.get(self._desk.hung.remote(place, limit, stack), timeout=TELL_SECONDS)
        finally:
            os._exit(1)
