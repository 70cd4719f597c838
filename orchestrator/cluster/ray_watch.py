"""Notices the deaths of Ray's own processes (GCS, raylet) within seconds, and leaves no process of an embedded Ray behind.

Without this, Ray ends the driver by itself: without a word, or a minute later. The check is a TCP connection to the port of
each process, so a process that is only paused is not taken for dead. The death of a process of an embedded Ray is noticed at once,
by its file descriptor: when an agent dies, the raylet ends itself within a twentieth of a second, and with it, by exit code 1,
each driver that is using the object store.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.protocol import RayLostError

CHECK_SECONDS = 0.5
LOCAL_GRACE_SECONDS, CLUSTER_GRACE_SECONDS = 0.5, 10.0
"""A process that could not be reached for so long is lost. A cluster's GCS may be started again by its operator."""
GCS, RAYLET, AGENT = (
    "its control service (GCS)",
    "the raylet of this machine",
    "an agent of the raylet of this machine",
)
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
        GCS: Address(host.strip("[]"), int(port)),
        RAYLET: Address(mine["NodeManagerAddress"], mine["NodeManagerPort"]),
    }


def embedded_processes() -> dict[int, str]:
    """Name by process id of the embedded Ray's processes that the driver cannot do without."""
    found = {}
    for process in child_processes():
        command = _command(process)
        if "gcs/gcs_server" in command:
            found[process] = GCS
        elif "raylet/raylet" in command:
            found[process] = RAYLET
            found |= {child: AGENT for child in child_processes(process) if _is_agent(_command(child))}
    return found


def _is_agent(command: str) -> bool:
    title, *arguments = command.split("\0")
    return title.startswith(("ray::DashboardAgent", "ray::RuntimeEnvAgent")) or any(
        argument.endswith(("dashboard/agent.py", "runtime_env/agent/main.py")) for argument in arguments[:4]
    )


def _command(process: int) -> str:
    """The command line of a process, its arguments separated by zero bytes; empty if it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


class RayWatch:
    """Watches Ray's processes from two threads.

    Args:
        processes: addresses by name.
        grace: seconds for which a process must be unreachable.
        on_lost: called in a thread, once, when one is lost; in most cases it ends this process.
        embedded: name by process id of those whose death is noticed at once.
    """

    def __init__(
        self,
        processes: Mapping[str, Address],
        grace: float,
        on_lost: Callable[[RayLostError], None],
        embedded: Mapping[int, str] | None = None,
    ) -> None:
        self._processes = processes
        self._grace = grace
        self._on_lost = on_lost
        self._embedded = embedded or {}
        self._over = threading.Event()
        self._reported = threading.Lock()
        threading.Thread(target=self._watch, name="ray-watch", daemon=True).start()
        if self._embedded and hasattr(os, "pidfd_open"):  # Linux
            threading.Thread(target=self._watch_deaths, name="ray-deaths", daemon=True).start()

    def stop(self) -> None:
        """Ray is about to be shut down."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(CHECK_SECONDS):
            lost = self.find_lost()
            if lost is not None:
                self._report(lost)
                return

    def _watch_deaths(self) -> None:
        watched: dict[int, str] = {}
        poller = select.poll()
        for process, name in self._embedded.items():
            with contextlib.suppress(OSError):  # it has ended already; the other thread sees that
                descriptor = os.pidfd_open(process)
                watched[descriptor] = name
                poller.register(descriptor, select.POLLIN)
        dead: list[tuple[int, int]] = []
        while watched and not dead and not self._over.is_set():
            dead = poller.poll(1000 * CHECK_SECONDS)
        if dead and not self._over.is_set():
            self._stop_raylet()
            self._report(_lost(watched[dead[0][0]]))
        for descriptor in watched:
            os.close(descriptor)

    def _stop_raylet(self) -> None:
        """Keep the raylet from ending itself: the connections that break would end this process without a word."""
        _send(signal.SIGSTOP, (process for process, name in self._embedded.items() if name == RAYLET))

    def _report(self, lost: RayLostError) -> None:
        if not self._over.is_set() and self._reported.acquire(blocking=False):  # never released
            self._on_lost(lost)

    def find_lost(self) -> RayLostError | None:
        """The error for a process that is lost; None if all can be reached, at once or within the grace period."""
        deadline = time.monotonic() + self._grace
        while True:
            closed = [name for name, address in self._processes.items() if not address.is_open()]
            if not closed:
                return None
            if time.monotonic() >= deadline:
                return _lost(closed[0])
            time.sleep(min(CHECK_SECONDS, self._grace))


def _lost(name: str) -> RayLostError:
    return RayLostError(f"Ray lost {name} (its process died, or its machine is gone)")


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
    """Kill all child processes but these, and all below them, and wait until they have ended."""
    deadline = time.monotonic() + _END_SECONDS
    while (left := child_processes() - spared) and time.monotonic() < deadline:
        kill_with_descendants(left)
        for process in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)
        time.sleep(0.02)


def kill_with_descendants(processes: set[int], later: Collection[int] = ()) -> None:
    """SIGKILL processes and all below them but `later`. The lowest go first, so that no process can act on a child's death."""
    levels = [processes]
    while below := set[int]().union(*map(child_processes, levels[-1])):
        levels.append(below)
    lowest_first = itertools.chain(*reversed(levels))
    _send(signal.SIGKILL, (process for process in lowest_first if process not in later))


def kill_before_exit() -> None:
    """SIGKILL all processes below this one, but a raylet only when this process has ended.

    The connections that break with a raylet would end this process by exit code 1, before it can end itself with another one.
    """
    children = child_processes()
    raylets = [process for process in children if "raylet/raylet" in _command(process)]
    _send(signal.SIGSTOP, raylets)
    if raylets:  # the shell's input ends with this process
        subprocess.Popen(
            ["/bin/sh", "-c", 'read _; kill -9 "$@"', "sh", *map(str, raylets)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    kill_with_descendants(children, later=raylets)


def _send(number: signal.Signals, processes: Iterable[int]) -> None:
    """Send a signal to those of these processes that are still there, in this order."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def child_processes(process: int | None = None) -> set[int]:
    """Ids of the children of a process, by default of this one; none where the system does not say."""
    children: set[int] = set()
    for path in Path(f"/proc/{process or 'self'}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            children.update(map(int, path.read_text(encoding="ascii").split()))
    return children
