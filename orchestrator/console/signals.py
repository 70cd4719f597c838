"""Ctrl-C, SIGTERM and SIGHUP stop a sweep in order, from the first line of the command on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from orchestrator.console.exit_codes import INTERRUPTED

if TYPE_CHECKING:
    from orchestrator.controller.run_state import Run

INTERRUPT = "interrupted"
"""Reason of a stop by a signal."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Handlers of the signals: raise `KeyboardInterrupt`, or, while a run is attached, ask it to stop with a checkpoint.

    After that, another SIGINT or SIGTERM ends the process at once. Another SIGHUP does not: the shell and the kernel may both
    send one when a terminal is closed.
    """

    def __init__(self) -> None:
        self._run: Run | None = None
        self._has_asked = False
        self._say: Callable[[str], None] = print

    def install(self) -> None:
        """Handle the signals from now on.

        A SIGHUP that the parent ignores, as `nohup` does, stays ignored.
        """
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    @contextmanager
    def stopping(self, run: Run, say: Callable[[str], None]) -> Iterator[None]:
        """Attach a run inside the block: the first signal asks it to stop, and `say` prints that."""
        self._run, self._say, self._has_asked = run, say, False
        try:
            yield
        finally:
            self._run = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._run is None:
            raise KeyboardInterrupt
        if self._has_asked:
            if number == signal.SIGHUP:
                return
            os._exit(INTERRUPTED)
        self._has_asked = True
        self._run.stop(INTERRUPT)
        self._say("leaving off at the next checkpoint; once more to end at once")


STOP_SIGNALS = StopSignals()
"""The signals of this process."""
