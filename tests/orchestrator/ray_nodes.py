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

from tests.orchestrator.sweeps import descendants


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
    """A head that trains nothing, and nodes of one CPU; each has an address of its own on this machine.

    Processes of Ray that a sweep does not need are left out: busy cores take long to start each.

    Args:
        nodes: how many join before anything else happens.
    """

    def __init__(self, folder: Path, env: dict[str, str], nodes: int) -> None:
        self.address = f"127.0.0.2:{free_port()}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._folder, self._env, self._number = folder, env, 2
        self._temporary = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        port = self.address.split(":")[1]
        self._head = self._joined(
            "--head",
            "--num-cpus=0",
            "--include-dashboard=false",
            "--no-monitor",
            f"--port={port}",
            f"--temp-dir={self._temporary.name}",
        )
        for _ in range(nodes):
            self.add()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        end([self._head, *self.nodes])
        self._temporary.cleanup()

    def add(self, **environment: str) -> None:
        """One more node, with this in its environment; returns once it has joined."""
        self.nodes.append(self._joined(f"--address={self.address}", "--num-cpus=1", **environment))

    def _joined(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """A node that runs. One that does not within 30 s gives up, which busy cores bring about: it gets another try."""
        address = f"--node-ip-address=127.0.0.{self._number}"
        self._number += 1
        for attempt in range(4):
            log = self._folder / f"node{self._number}-{attempt}.log"
            node = start(
                address, "--include-log-monitor=false", *arguments, env=self._env | environment, log=log
            )
            while node.poll() is None:
                if "Ray runtime started" in log.read_text():
                    return node
                time.sleep(0.1)
            end([node])
        raise AssertionError(f"no node could be started:\n{log.read_text()[-3000:]}")

    def lose_one_that_trains(self) -> None:
        """A node with a training worker is gone from one moment to the next."""
        lost = next(node for node in self.nodes if processes_below(node.pid, "RayTrainWorker"))
        end([lost])
        self.nodes.remove(lost)

    def processes(self, title: str) -> list[int]:
        """Processes of all nodes, the head among them, with this in their title."""
        return [pid for node in [self._head, *self.nodes] for pid in processes_below(node.pid, title)]


def processes_below(node: int, title: str) -> list[int]:
    """Processes below this one with this in their title."""
    found = []
    for pid in descendants(node):
        with contextlib.suppress(OSError):
            if title.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found
