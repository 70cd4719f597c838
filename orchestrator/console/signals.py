"""Ctrl-C and SIGTERM ask a run to stop in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.console.exit_codes import INTERRUPTED
from orchestrator.controller.run_state import Run

INTERRUPT = "interrupted"
"""Reason of a stop by a signal."""


@contextmanager
def stop_at_signals(run: Run, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, the first signal asks the run to stop with a checkpoint; a second one ends the process at once."""

    def stop(number: int, frame: object) -> None:
        if run.stopped.is_set():
            os._exit(INTERRUPTED)
        run.stop(INTERRUPT)
        say("leaving off at the next checkpoint; once more to end at once")

    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
