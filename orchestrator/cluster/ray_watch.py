"""Notices the deaths of Ray's own processes (GCS, raylet) within seconds, and leaves no process of an embedded Ray behind.

Without this, Ray ends the driver by itself: without a word, or a minute later. The check is a TCP connection to the port of
each process, so a process that is only paused is not taken for dead.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.protocol import RayLostError

CHECK_SECONDS = 0.5
LOCAL_GRACE_SECONDS, CLUSTER_GRACE_SECONDS = 0.5, 10.0
"""A process that could not be reached for so long is lost. A cluster's GCS may be started again by its operator."""
_PR_SET_CHILD_SUBREAPER = 36
_END_SECONDS = 10.0


class Address(NamedTuple):
    """Host and port of a process."""

    host: str
    port: int

    def is_open(self) -> bool:
        """Whether something accepts connections here."""
        try:
            socket.create_connection(self, timeout=2.0).close()
        except OSError:
            return False
        return True


def ray_processes(ray: Any) -> dict[str, Address]:
    """Addresses of the processes that the driver needs: the cluster's GCS, and the raylet of this machine."""
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    mine = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    return {
        "its control service (GCS)": Address(host.strip("[]"), int(port)),
        "the raylet of this machine": Address(mine["NodeManagerAddress"], mine["NodeManagerPort"]),
    }


class RayWatch:
    """Watches Ray's processes from a thread.

    Args:
        processes: addresses by name.
        grace: seconds for which a process must be unreachable.
        on_lost: called in the thread, once, when one is lost; in most cases it ends this process.
    """

    def __init__(
        self, processes: Mapping[str, Address], grace: float, on_lost: Callable[[RayLostError], None]
    ) -> None:
        self._processes = processes
        self._grace = grace
        self._on_lost = on_lost
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="ray-watch", daemon=True).start()

    def stop(self) -> None:
        """Ray is about to be shut down."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(CHECK_SECONDS):
            lost = self.find_lost()
            if lost is not None and not self._over.is_set():
                self._on_lost(lost)
                return

    def find_lost(self) -> RayLostError | None:
        """The error for a process that is lost; None if all can be reached, at once or within the grace period."""
        deadline = time.monotonic() + self._grace
        while True:
            closed = [name for name, address in self._processes.items() if not address.is_open()]
            if not closed:
                return None
            if time.monotonic() >= deadline:
                return RayLostError(f"Ray lost {closed[0]} (its process died, or its machine is gone)")
            time.sleep(min(CHECK_SECONDS, self._grace))


@contextmanager
def no_process_left() -> Iterator[None]:
    """End all processes that were started inside the block, also by processes that have died since."""
    if sys.platform == "linux":  # what dead processes leave behind becomes a child of this one
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = child_processes()
    try:
        yield
    finally:
        end_child_processes(before)


def end_child_processes(spared: set[int]) -> None:
    """Kill all child processes but these, and wait until they have ended."""
    deadline = time.monotonic() + _END_SECONDS
    while (left := child_processes() - spared) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for process in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)
        time.sleep(0.02)


def child_processes() -> set[int]:
    """Ids of this process's children; none where the system does not say."""
    listed = [path.read_text(encoding="ascii") for path in Path("/proc/self/task").glob("*/children")]
    return {int(process) for text in listed for process in text.split()}
