"""Harms the processes of a sweep at random moments, has the same command go on, and compares what comes out.

`python -m tests.faults.harness --kills 100 --seed 1` is the long form; tests/faults/test_faults.py runs a few. With `--log FILE`
each run is appended to a file, and the same command goes on after the runs that are in it. A run that ends otherwise than
promised is kept in `--folder`, and the next one follows. Harms to tables without Ray: `tests.faults.table_harms`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from orchestrator.console.exit_codes import RAY_LOST
from orchestrator.ledger.tables import Ledger
from tests import ROOT
from tests.faults.table_harms import HARMS, files_of, harm
from tests.orchestrator.sweeps import Sweep, assert_equal_runs, descendants, trials

SMALLEST = ROOT / "tests" / "faults" / "smallest.yaml"
TITLES = {
    "teacher": ("RayTrainWorker",),
    "worker": ("RayTrainWorker",),
    "trial": ("ReportPoller", "ResourceTrainable"),
    "coordinator": ("ray::Coordinator",),
    "controller": ("ray::TrainController",),
    "raylet": ("raylet/raylet",),
    "gcs": ("gcs/gcs_server",),
    "agent": ("DashboardAgent", "RuntimeEnvAgent"),
}
"""Kinds of processes, by a part of their titles. An agent is the dashboard's or the one of runtime environments."""
RAY_KINDS = ("coordinator", "controller", "raylet", "gcs", "agent")
PAUSED_KINDS = ("worker", "trial", *RAY_KINDS)
PAUSES = tuple(f"pause-{kind}" for kind in PAUSED_KINDS)
KINDS = ("teacher", "worker", "trial", "command", "machine", "damage")
"""The process that trains the teacher; one that trains students; Tune's, which serves all trials; the command; everything at once; the
same, with the newest checkpoint damaged."""
NEW_KINDS = (*RAY_KINDS, *PAUSES, "table", "lock")
"""Ray's own processes are killed, or paused for up to five seconds; files of tables are harmed after everything was killed;
the lock of the folder is replaced by one of another command that has ended."""
ENDS_COMMAND = ("command", "machine", "damage", "table", "lock")
END_SECONDS = 1200.0
"""Longest wait for the end of a sweep: the cores may be busy."""
MISSING_SECONDS = 300.0
"""A kind that is not there for so long is left out."""
TRAINING_SHARE = 0.7
"""Share of the new kinds' harms that wait for a training worker. The others may come while Ray starts, which is a large part of such a short run."""
MOST_FAILED = 5
"""After so many runs that ended otherwise than promised a campaign ends."""
PATIENT = ("--set", "operation.max_failures=100")
"""Kills may follow each other faster than checkpoints: what is tested is that nothing is lost, not when to give up."""


@dataclass
class Toll:
    """What a campaign has done and seen."""

    kills: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    """How often the command ended by itself, by `KIND: exit code N`, after the last harm before its end."""
    runs: int = 0
    failed: int = 0
    """Runs that ended otherwise than promised."""
    repeated_seconds: list[float] = field(default_factory=list)
    """Age of the newest checkpoint, or of the training's start, when a training worker was killed."""
    lost_seconds: list[float] = field(default_factory=list)
    """Time from the death of raylet, GCS or agent to the end of the command."""

    def sentence(self) -> str:
        dealt = ", ".join(f"{number} × {kind}" for kind, number in sorted(self.kills.items()))
        ended = ", ".join(f"{number} × {end}" for end, number in sorted(self.ends.items()))
        repeated = self.repeated_seconds or [0.0]
        lost = self.lost_seconds or [0.0]
        return (
            f"{sum(self.kills.values())} harms ({dealt}) in {self.runs} runs, {self.runs - self.failed} equal to the undisturbed "
            f"one to the bit; the command ended by itself: {ended or 'never'}; with exit code {RAY_LOST} after "
            f"{statistics.median(lost):.1f} s in the median, {max(lost):.1f} s at most; work repeated per killed worker: median "
            f"{statistics.median(repeated):.1f} s, most {max(repeated):.1f} s"
        )

    def add(self, other: Toll) -> None:
        """Add what another campaign has seen."""
        self.kills += other.kills
        self.ends += other.ends
        self.runs += other.runs
        self.failed += other.failed
        self.repeated_seconds += other.repeated_seconds
        self.lost_seconds += other.lost_seconds


def processes(sweep: Sweep, *titles: str) -> list[int]:
    """Processes of the sweep whose title has one of these parts."""
    found = []
    for pid in descendants(sweep.process.pid):
        try:
            content = Path(f"/proc/{pid}/cmdline").read_bytes()
            if any(title.encode() in content for title in titles):
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
    """One harm of this kind; False where there is nothing of the kind just now."""
    if kind in ("machine", "damage", "table"):
        if (kind == "damage" and not manifests(sweep)) or (kind == "table" and not harmed_files(sweep)):
            return False
        sweep.end()
        if kind == "damage":
            newest = max(manifests(sweep), key=lambda path: path.stat().st_mtime).with_name("rank0.pt")
            newest.write_bytes(newest.read_bytes()[: choose.randrange(newest.stat().st_size)])
        elif kind == "table":
            harm(Ledger(sweep.output), choose.choice(HARMS), choose.choice(harmed_files(sweep)), choose)
    elif kind == "lock":
        if not (lock := sweep.output / "lock.json").exists():
            return False
        lock.write_text(json.dumps({**json.loads(lock.read_text()), "pid": 2**22 + 1, "token": "another"}))
        code = sweep.process.wait(120)
        toll.ends[f"lock: exit code {code}"] += 1
        if code == 0:  # all was done before the lock was next renewed; it is left to its holder
            assert json.loads(lock.read_text())["token"] == "another"
        else:
            assert code == 2, sweep.text()
            assert "is no longer held by this command" in sweep.text()
        sweep.end()
    elif kind == "command":
        family = descendants(sweep.process.pid)
        sweep.process.kill()
        sweep.process.wait()
        gone = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < gone:
            time.sleep(0.05)  # Ray's processes follow the driver by themselves
    elif kind in PAUSES:
        return pause(sweep, kind, choose, toll)
    else:
        pids = processes(sweep, *TITLES[kind])
        is_late = any(sweep.output.glob("teachers/*")) if kind == "teacher" else False
        if not pids or is_late:
            return False
        pid = choose.choice(pids)
        try:
            if kind in ("teacher", "worker"):
                toll.repeated_seconds.append(unsaved_seconds(sweep, pid))
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError):
            return False
    toll.kills[kind] += 1
    return True


def harmed_files(sweep: Sweep) -> list[str]:
    """Files of tables, but for the provenance: without it nothing says which plan the tables are of."""
    return [path for path in files_of(Ledger(sweep.output)) if "tables/" in path and "provenance" not in path]


def pause(sweep: Sweep, kind: str, choose: random.Random, toll: Toll) -> bool:
    """SIGSTOP a process, and SIGCONT it after up to five seconds; returns at once."""
    pids = processes(sweep, *TITLES[kind.removeprefix("pause-")])
    if not pids:
        return False
    pid = choose.choice(pids)
    try:
        os.kill(pid, signal.SIGSTOP)
    except ProcessLookupError:
        return False

    def go_on() -> None:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:  # it was killed meanwhile
            return

    threading.Timer(choose.uniform(0.2, 5.0), go_on).start()
    toll.kills[kind] += 1
    return True


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie, which only waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def has_not_started(sweep: Sweep) -> bool:
    """Whether the command has ended because Ray did not start, as on a busy machine."""
    errors = [line for line in sweep.text().splitlines() if line.startswith("error: ")]
    return bool(errors) and errors[-1].startswith("error: Ray did not start")


def end_without_ray(sweep: Sweep, family: Sequence[int], struck_at: float, toll: Toll) -> None:
    """The command has ended with exit code `RAY_LOST`: it has said so, and no process is left."""
    said = sweep.text()
    if not has_not_started(sweep):
        toll.lost_seconds.append(time.monotonic() - struck_at)
    assert "the same command goes on from here" in said, said
    assert "Traceback" not in said, said
    gone = time.monotonic() + 20  # the command has killed them; a busy machine takes its time
    while (left := [pid for pid in family if is_running(pid)]) and time.monotonic() < gone:
        time.sleep(0.05)
    assert not left, f"{left} outlive the command:\n{said}"


def disturbed_run(
    source: Path, output: Path, kinds: Sequence[str], choose: random.Random, toll: Toll, *, span: float = 6.0,
    arguments: Sequence[str] = (),
) -> int:  # fmt: skip
    """A run to its end, struck once by each of `kinds`, in order, each at a random moment after the one before.

    Returns:
        How many of the kinds struck; the run may end before all have.
    """
    struck = 0
    toll.runs += 1
    sweep = Sweep(source, output, *PATIENT, *arguments)
    struck_at, family, last = time.monotonic(), list[int](), "no harm"
    try:
        for kind in (*kinds, None):
            moment, dealt = time.monotonic() + choose.uniform(0, span), False
            while_training = kind in NEW_KINDS and choose.random() < TRAINING_SHARE
            while not dealt and (kind is None or time.monotonic() < moment + MISSING_SECONDS):
                if sweep.process.poll() == RAY_LOST:
                    end_without_ray(sweep, family, struck_at, toll)
                    cause = "Ray's start" if has_not_started(sweep) else last
                    toll.ends[f"{cause}: exit code {RAY_LOST}"] += 1
                    sweep = Sweep(source, output, *PATIENT, *arguments)
                if sweep.process.poll() is not None:
                    break
                if while_training and processes(sweep, *TITLES["worker"]):
                    while_training, moment = False, time.monotonic() + choose.uniform(0, span)
                if kind is not None and not while_training and time.monotonic() >= moment:
                    family, now = descendants(sweep.process.pid), time.monotonic()
                    if dealt := kill(sweep, kind, choose, toll):
                        struck_at, last = now, kind
                time.sleep(0.1)  # a look at all processes of the machine takes 10 ms
            struck += dealt
            if dealt and kind in ENDS_COMMAND:
                sweep = Sweep(source, output, *PATIENT, *arguments)
        code = sweep.finish(END_SECONDS)
        assert code == 0, f"exit code {code} after {kinds[:struck]} of {kinds}:\n{sweep.text()}"
    finally:
        sweep.end()
    return struck


def assert_nothing_lost(found: Path, expected: Path, *, tables_harmed: bool = False) -> None:
    """Every trial once, same losses to the bit, same board, no checkpoint left over."""
    assert_equal_runs(found, expected)
    assert trials(found).index.is_unique
    rows = pd.read_parquet(found / "tables" / "trials")
    assert tables_harmed or (rows.attempt == 1).all()
    assert not list(found.glob("checkpoints/*/*"))
    assert not (found / "lock.json").exists()


def recorded_toll(log: Path | None) -> Toll:
    """What the runs in a log have seen."""
    toll = Toll()
    for line in log.read_text().splitlines() if log is not None and log.exists() else ():
        found = json.loads(line)
        kills, ends = Counter(found.pop("kills")), Counter(found.pop("ends"))
        toll.add(Toll(kills, ends, **found))
    return toll


def one_run(output: Path, undisturbed: Path, kinds: Sequence[str], choose: random.Random) -> Toll:
    """A disturbed run that is compared; it is deleted if it is as promised, and kept if not."""
    seen = Toll()
    try:
        disturbed_run(SMALLEST, output, kinds, choose, seen)
        assert_nothing_lost(output, undisturbed, tables_harmed="table" in seen.kills)
    except AssertionError as error:
        print(f"{output} with {kinds}: {error}", file=sys.stderr, flush=True)
        seen.failed = 1
    else:
        shutil.rmtree(output)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Harm a sweep's processes and files at random and see that nothing is lost."
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-run", type=int, default=6, help="harms of one run, at most")
    parser.add_argument("--kinds", nargs="+", choices=(*KINDS, *NEW_KINDS), default=(*KINDS, *NEW_KINDS))
    parser.add_argument("--each-once", action="store_true", help="one harm of each kind instead of a draw")
    parser.add_argument("--log", type=Path, help="file to which each run is appended")
    parser.add_argument("--folder", type=Path, help="folder of the runs; those that fail are kept there")
    chosen = parser.parse_args()
    toll = recorded_toll(chosen.log)
    order = random.Random(chosen.seed).sample(chosen.kinds, len(chosen.kinds))
    most = len(order) if chosen.each_once else chosen.kills
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        undisturbed = folder / "undisturbed"
        assert Sweep(SMALLEST, undisturbed).finish(END_SECONDS) == 0
        failed_before = toll.failed
        while (done := sum(toll.kills.values())) < most and toll.failed - failed_before < MOST_FAILED:
            choose = random.Random(f"{chosen.seed}-{toll.runs}")
            several = min(most - done, chosen.per_run)
            missing = [kind for kind in order if not toll.kills[kind]]
            kinds = missing[:several] if chosen.each_once else choose.choices(chosen.kinds, k=several)
            seen = one_run(folder / f"run{toll.runs}", undisturbed, kinds, choose)
            toll.add(seen)
            if chosen.log is not None:
                with chosen.log.open("a") as log:
                    log.write(json.dumps(vars(seen)) + "\n")
            print(toll.sentence(), flush=True)
    if toll.failed:
        sys.exit(f"{toll.failed} runs ended otherwise than promised")


if __name__ == "__main__":
    main()
