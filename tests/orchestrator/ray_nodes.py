"""Starts Ray nodes as `ray start --block` does, and ends them, and no other Ray on this machine."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from sweeps import descendants


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def environment() -> dict[str, str]:
    """A token of its own, and nothing of another Ray's."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "300",  # 30 by default, too short on two cores that others use
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


def start(*arguments: str, env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--block",
        "--object-store-memory=100000000",
    ]
    with log.open("a") as out:
        return subprocess.Popen([*command, *arguments], env=env, stdout=out, stderr=out)


def end(nodes: list[subprocess.Popen[bytes]]) -> None:
    for node in nodes:
        for pid in [node.pid, *descendants(node.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        node.wait()


class Cluster:
    """A head that trains nothing, and nodes of one CPU; each has an address of its own on this machine."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.address = f"127.0.0.2:{free_port()}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._env, self._log = env, folder / "ray.log"
        self._temporary = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self._head = self._start(
            "--head", "--num-cpus=0", "--include-dashboard=false", "--node-ip-address=127.0.0.2",
            f"--port={self.address.split(':')[1]}", f"--temp-dir={self._temporary.name}",
        )  # fmt: skip
        self._added = 0

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return start(*arguments, env=self._env, log=self._log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        end([self._head, *self.nodes])
        self._temporary.cleanup()

    def wait_for_head(self) -> None:
        """Until it answers; nodes may join later."""
        deadline = time.monotonic() + 180
        while self.runs() and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.2", self._port), timeout=1):
                return
            time.sleep(0.2)
        raise AssertionError(f"the head does not answer:\n{self._log.read_text()[-3000:]}")

    @property
    def _port(self) -> int:
        return int(self.address.split(":")[1])

    def add(self) -> None:
        """One more node."""
        self._added += 1
        address = f"--node-ip-address=127.0.0.{2 + self._added}"
        self.nodes.append(self._start(f"--address={self.address}", "--num-cpus=1", address))

    def lose_one_that_trains(self) -> None:
        """A node with a training worker is gone from one moment to the next."""
        lost = next(node for node in self.nodes if workers_below(node.pid))
        end([lost])
        self.nodes.remove(lost)

    def workers(self) -> int:
        """Training workers on all nodes."""
        return sum(workers_below(node.pid) for node in self.nodes)

    def runs(self) -> bool:
        """True; or an error that tells why one of the nodes has ended."""
        ended = any(node.poll() is not None for node in [self._head, *self.nodes])
        assert not ended, f"a node ended:\n{self._log.read_text()[-3000:]}"
        return True


def workers_below(raylet: int) -> int:
    """Training workers below this process."""
    found = 0
    for pid in descendants(raylet):
        with contextlib.suppress(OSError):
            found += b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return found
