"""Ends a worker that hangs, and lets the coordinator know which trial a dead or hanging worker was working on."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.protocol import CohortChannelClient, WorkerPosition

REPORT_SECONDS = 30.0  # how long a hanging worker tries to report


class Watchdog:
    """Watches one worker from a thread of its own.

    If the worker stays at one position longer than the limit, the process reports that and exits, and Ray Train restarts it
    from the checkpoint. A worker that holds the GIL for as long is ended by `faulthandler`, which does not need the GIL.

    Args:
        channel: the cohort's.
        speaks: whether this worker announces positions. Of workers that are at the same position, only rank 0 does.
        limit_seconds: longest time at one position; None for no limit.
        careful: announce every position to the coordinator beforehand, because an earlier attempt died.
        settle: called before a position is announced: waits for the device and for the other workers at this position, so
            that a death is counted at the position that caused it.
        runs_ahead: whether the host runs ahead of the device. Then it is unknown which trial hangs, unless care is taken.
    """

    def __init__(
        self,
        channel: CohortChannelClient,
        *,
        speaks: bool,
        limit_seconds: float | None,
        careful: bool,
        settle: Callable[[], None],
        runs_ahead: bool,
    ) -> None:
        self._channel = channel
        self._speaks = speaks
        self.careful = careful
        self._settle = settle
        self._runs_ahead = runs_ahead
        self._announced: WorkerPosition | None = None
        self._at: tuple[WorkerPosition, float] | None = None
        self._main_thread = threading.get_ident()
        self._stopped = threading.Event()
        if limit_seconds is not None:
            threading.Thread(target=self._watch, args=(limit_seconds,), name="watchdog", daemon=True).start()

    def move_to(self, trial_id: str | None, step: int) -> None:
        """The worker begins to work on a trial's step, or (None) on what all trials share."""
        position = WorkerPosition(trial_id, step)
        self._announce(position)
        self._at = (position, time.monotonic())

    def heartbeat(self) -> None:
        """The worker makes progress at its position."""
        if self._at is not None:
            self._at = (self._at[0], time.monotonic())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, the worker waits for another worker, which is watched itself."""
        at, self._at = self._at, None
        yield
        self._at = None if at is None else (at[0], time.monotonic())

    def rest(self) -> None:
        """The worker waits for others or for storage, without a limit."""
        self._announce(None)
        self._at = None

    def stop(self) -> None:
        """The cohort is over."""
        self._at = None
        self._stopped.set()

    def checkpointed(self, position: tuple[int, int]) -> bool:
        """A checkpoint was written at (wave, sum of steps); returns whether positions must still be announced."""
        return self._channel.checkpointed(position)

    def _announce(self, position: WorkerPosition | None) -> None:
        if not self.careful or position == self._announced:
            return
        self._settle()
        if self._speaks:
            self._channel.announce(position)
        self._announced = position

    def _watch(self, limit: float) -> None:
        while not self._stopped.is_set():
            faulthandler.dump_traceback_later(2 * limit + 60, exit=True)
            self._stopped.wait(limit / 4)
            at = self._at
            if at is not None and time.monotonic() - at[1] > limit:
                known = self.careful or not self._runs_ahead
                self._exit(at[0] if known else WorkerPosition(None, at[0].step), limit)
        faulthandler.cancel_dump_traceback_later()

    def _exit(self, position: WorkerPosition, limit: float) -> None:
        frame = sys._current_frames().get(self._main_thread)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        try:
            self._channel.report_hang(position, limit, stack, timeout=REPORT_SECONDS)
        finally:
            os._exit(1)
