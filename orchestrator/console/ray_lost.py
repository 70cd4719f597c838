"""The end of a command that has lost Ray: a sentence, an exit code of its own, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

from orchestrator.console.exit_codes import RAY_LOST

if TYPE_CHECKING:
    from orchestrator.ledger.folder_lock import FolderLock
    from orchestrator.protocol import RayLostError

_ENDING = threading.Lock()


def exit_without_ray(error: RayLostError, lock: FolderLock | None = None) -> NoReturn:
    """Say what was lost and exit, from any thread: others may wait for ever for answers of Ray.

    Args:
        error: what was lost.
        lock: the lock of the run's folder, if this process still has it.
    """
    from orchestrator.cluster.ray_watch import kill_before_exit

    _ENDING.acquire()  # never released: the first thread ends the process
    print(f"error: {error}", file=sys.stderr, flush=True)
    _silence()  # other threads, and Ray itself, would print what follows from it
    if lock is not None:
        with contextlib.suppress(Exception):  # it is then abandoned, as that of a process that was killed
            lock.release()
    with contextlib.suppress(Exception):  # whatever fails, the process must end
        kill_before_exit()
    os._exit(RAY_LOST)  # at once, since Ray acts on the deaths of its processes


def wait_for_other_end() -> None:
    """Do not return if another thread is in `exit_without_ray`: this thread would end the process first, with another exit code."""
    with _ENDING:
        pass


def _silence() -> None:
    """Send all further output of this process to the null device."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(null, descriptor)
