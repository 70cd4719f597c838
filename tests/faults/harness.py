"""Kills processes of a sweep at random moments, has the same command go on, and compares what comes out.

`python -m tests.faults.harness --kills 100 --seed 1` is the long form; tests/faults/test_faults.py runs a few.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from tests.orchestrator.sweeps import SMALL, Sweep, assert_equal_runs, descendants, run, trials

KINDS = ("teacher", "worker", "trial", "command", "machine", "damage")
"""The process that trains the teacher; one that trains students; Tune's, which serves all trials; the command; everything at once; the
same, with the newest checkpoint damaged."""
PATIENT = ("--set", "operation.max_failures=100")
"""Kills may follow each other faster than checkpoints: what is tested is that nothing is lost, not when to give up."""


@dataclass
class Toll:
    """What a campaign has done and seen."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    repeated_seconds: list[float] = field(default_factory=list)
    """Age of the newest checkpoint, or of the training's start, when a training worker was killed."""

    def sentence(self) -> str:
        dealt = ", ".join(f"{number} × {kind}" for kind, number in sorted(self.kills.items()))
        repeated = self.repeated_seconds or [0.0]
        return (
            f"{sum(self.kills.values())} kills ({dealt}) in {self.runs} runs, each equal to the undisturbed one to the "
            f"bit; work repeated per kill: median {statistics.median(repeated):.1f} s, most {max(repeated):.1f} s"
        )


def processes(sweep: Sweep, title: str) -> list[int]:
    """Processes of the sweep whose title holds this."""
    found = []
    for pid in descendants(sweep.process.pid):
        try:
            if title.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def unsaved_seconds(sweep: Sweep, worker: int) -> float:
    """Time since the newest checkpoint was written, or since the worker was started, where that came later."""
    started = Path(f"/proc/{worker}").stat().st_mtime
    return time.time() - max([started, *(path.stat().st_mtime for path in manifests(sweep))])


def manifests(sweep: Sweep) -> list[Path]:
    """Those of the checkpoints that are there."""
    return list(sweep.output.glob("checkpoints/*/*/*/manifest.json"))


def kill(sweep: Sweep, kind: str, choose: random.Random, toll: Toll) -> bool:
    """One SIGKILL of this kind; False where there is nothing of the kind just now."""
    if kind in ("machine", "damage"):
        if kind == "damage" and not manifests(sweep):
            return False
        sweep.end()
        if kind == "damage":
            newest = max(manifests(sweep), key=lambda path: path.stat().st_mtime).with_name("rank0.pt")
            newest.write_bytes(newest.read_bytes()[: choose.randrange(newest.stat().st_size)])
    elif kind == "command":
        family = descendants(sweep.process.pid)
        sweep.process.kill()
        sweep.process.wait()
        gone = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < gone:
            time.sleep(0.05)  # Ray's processes follow the driver by themselves
    else:
        pids = processes(sweep, "ResourceTrainable" if kind == "trial" else "RayTrainWorker")
        is_late = any(sweep.output.glob("teachers/*")) if kind == "teacher" else False
        if not pids or is_late:
            return False
        pid = choose.choice(pids)
        try:
            if kind != "trial":
                toll.repeated_seconds.append(unsaved_seconds(sweep, pid))
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError):
            return False
    toll.kills[kind] += 1
    return True


def disturbed_run(
    source: Path, output: Path, kinds: Sequence[str], choose: random.Random, toll: Toll, *, span: float = 6.0,
    arguments: Sequence[str] = (),
) -> int:  # fmt: skip
    """A run to its end, struck once by each of `kinds`, in order, each at a random moment after the one before.

    Returns:
        How many of the kinds struck; the run may end before all have.
    """
    struck = 0
    sweep = Sweep(source, output, *PATIENT, *arguments)
    try:
        for kind in kinds:
            moment = time.monotonic() + choose.uniform(0, span)
            dealt = False
            while not dealt and sweep.process.poll() is None:
                if time.monotonic() >= moment:
                    dealt = kill(sweep, kind, choose, toll)
                time.sleep(0.02)
            struck += dealt
            if not dealt:
                break
            if kind in ("command", "machine", "damage"):
                sweep = Sweep(source, output, *PATIENT, *arguments)
        code = sweep.finish()
        assert code == 0, sweep.text()
    finally:
        sweep.end()
    toll.runs += 1
    return struck


def assert_nothing_lost(found: Path, expected: Path) -> None:
    """Every trial once, same losses to the bit, same board, no checkpoint left over."""
    assert_equal_runs(found, expected)
    assert trials(found).index.is_unique
    rows = pd.read_parquet(found / "tables" / "trials")
    assert (rows.attempt == 1).all()
    assert not list(found.glob("checkpoints/*/*"))
    assert not (found / "lock.json").exists()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Kill a sweep's processes at random and see that nothing is lost."
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-run", type=int, default=6, help="kills of one run, at most")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    chosen = parser.parse_args()
    choose = random.Random(chosen.seed)
    toll = Toll()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed"
        assert run(SMALL, undisturbed).process.returncode == 0
        while sum(toll.kills.values()) < chosen.kills:
            output = Path(folder) / f"run{toll.runs}"
            left = chosen.kills - sum(toll.kills.values())
            kinds = choose.choices(chosen.kinds, k=min(left, chosen.per_run))
            disturbed_run(SMALL, output, kinds, choose, toll)
            assert_nothing_lost(output, undisturbed)
            print(toll.sentence(), flush=True)


if __name__ == "__main__":
    main()
