"""Starts Ray nodes as `ray start --block` does, and ends them, and no other Ray on this machine."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path

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


def all_run(nodes: list[subprocess.Popen[bytes]], log: Path) -> bool:
    """True; or an error that tells why one of the nodes has ended."""
    assert all(node.poll() is None for node in nodes), f"a node ended:\n{log.read_text()[-3000:]}"
    return True


def end(nodes: list[subprocess.Popen[bytes]]) -> None:
    for node in nodes:
        for pid in [node.pid, *descendants(node.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        node.wait()
