"""Runs the real command in a process of its own, and reads what it leaves behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.leaderboard.entries import MEASURED_COLUMNS
from orchestrator.ledger.tables import Ledger

SMALL = Path(__file__).with_name("small.yaml")
MEASURED = {"gpu_seconds", "student_seconds", "shared_seconds", "teacher_seconds", "wall_seconds",
            "peak_memory_bytes", "started_at", "finished_at", "provenance_id", "attempt"}  # fmt: skip


class Sweep:
    """One `python -m orchestrator.sweep`, as a person would start it."""

    def __init__(
        self, source: str | Path, output: Path | str, *arguments: str, log: Path | None = None
    ) -> None:
        self.output = Path(output)
        self.log = log or self.output.with_suffix(".log")
        command = [
            sys.executable,
            "-m",
            "orchestrator.sweep",
            str(source),
            "--output",
            str(output),
            *arguments,
        ]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONFAULTHANDLER": "1"},
            )

    def finish(self, timeout: float = 560) -> int:
        """Waits for the exit code; where none comes, tells where the command stands."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler prints every thread's stack
            self.process.wait(30)
            raise AssertionError(f"no end within {timeout:g} s:\n{self.text()}") from None
        finally:
            self.end()

    def wait_until(self, condition: Callable[[], bool], timeout: float = 560) -> None:
        """Waits for a condition while the command runs."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, f"the command ended early:\n{self.text()}"
            assert time.monotonic() < deadline, f"the condition never came true:\n{self.text()}"
            time.sleep(0.2)  # a look at all processes of the machine takes 10 ms

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """Kills the command and all that Ray started for it, as a power cut would."""
        family = descendants(self.process.pid)
        for pid in [self.process.pid, *family]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()

    def text(self) -> str:
        """All that the command printed."""
        return self.log.read_text()


def run(source: str | Path, output: Path, *arguments: str) -> Sweep:
    """A sweep from start to end."""
    sweep = Sweep(source, output, *arguments)
    sweep.finish()
    return sweep


def descendants(pid: int) -> list[int]:
    """Process ids below a process, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def trials(output: Path | str) -> pd.DataFrame:
    """The trials table, by trial id, without what is measured."""
    table = Ledger(output).read("trials").to_pandas().set_index("trial_id").sort_index()
    for name in ("params", "searched"):
        table[name] = table[name].map(lambda pairs: dict(pairs))
    return table[[c for c in table.columns if c not in MEASURED]]


def curves(output: Path | str) -> pd.DataFrame:
    """Every loss and score along the way, without what is measured."""
    table = (
        Ledger(output)
        .read("curves")
        .to_pandas()
        .drop(columns=["student_seconds", "shared_seconds", "teacher_seconds"])
    )
    for column in ("terms_raw", "terms_weighted"):
        table[column] = table[column].map(lambda pairs: dict(pairs))
    return table.sort_values(["trial_id", "step"]).reset_index(drop=True)


def board(output: Path | str) -> pd.DataFrame:
    """The leaderboard's rows without the columns that hold measured times and memory."""
    table = pd.read_csv(io.BytesIO(Ledger(output).read_bytes("leaderboard/leaderboard.csv")))
    return table[[c for c in table.columns if c not in MEASURED_COLUMNS]]


def counted(output: Path, **wanted: Any) -> int:
    """How many recorded trials have these values."""
    table = Ledger(output).read("trials", list(wanted)).to_pylist() if (output / "tables").exists() else []
    return sum(all(row[key] == value for key, value in wanted.items()) for row in table)


def assert_equal_runs(found: Path | str, expected: Path) -> None:
    """Same trials, same losses to the bit, same board."""
    for read in (trials, curves, board):
        pd.testing.assert_frame_equal(read(found), read(expected), check_exact=True)
