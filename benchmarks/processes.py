"""Runs a command and tells what it took: seconds, and the most memory that it and all its children held at a time."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.2
SAMPLING_SHARE = 0.04
"""Of one processor, at most: the kernel walks all pages of a process to tell its share, so the pause is stretched."""


@dataclass(frozen=True)
class SelectedStudent:
    """What a command took.

    Attributes:
        began, ended: seconds since the epoch, to compare with the ledger's.
        peak_mib: highest sum of PSS over its process tree; a page that processes share counts once.
        sampling_seconds: processor time that watching it took, beside the command's own.
        groups: what each kind of process had of that, as (how many, MiB), by name.
    """

    began: float
    ended: float
    peak_mib: float
    sampling_seconds: float
    groups: dict[str, tuple[int, int]]

    @property
    def seconds(self) -> float:
        """Wall clock, start-up and shut-down included."""
        return self.ended - self.began


def run(command: Sequence[str], log: Path) -> SelectedStudent:
    """Runs a command to its end.

    Args:
        command: program and arguments.
        log: where what it prints goes.

    Raises:
        SystemExit: it failed; tells the end of what it printed.
    """
    began = time.time()
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        peaks: list[tuple[int, list[tuple[str, int]]]] = [(0, [])]
        over = threading.Event()
        spent: list[float] = []
        sampler = threading.Thread(target=_sample, args=(process.pid, peaks, spent, over), daemon=True)
        sampler.start()
        code = process.wait()
        ended = time.time()
        over.set()
        sampler.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}:\n{log.read_text()[-4000:]}")
    [(kib, members)] = peaks
    groups: dict[str, tuple[int, int]] = {}
    for name, size in members:
        count, total = groups.get(name, (0, 0))
        groups[name] = (count + 1, total + size)
    in_mib = {name: (count, total // 1024) for name, (count, total) in groups.items()}
    largest = sorted(in_mib.items(), key=lambda item: -item[1][1])
    return SelectedStudent(began, ended, kib / 1024, spent[0], dict(largest))


def _sample(
    pid: int, peaks: list[tuple[int, list[tuple[str, int]]]], spent: list[float], over: threading.Event
) -> None:
    pause = SAMPLE_SECONDS
    while not over.wait(pause):
        begun = time.thread_time()
        members = [(name_of(member), pss_kib(member)) for member in family(pid)]
        total = sum(size for _, size in members)
        if total > peaks[0][0]:
            peaks[0] = (total, members)
        pause = max(SAMPLE_SECONDS, (time.thread_time() - begun) / SAMPLING_SHARE)
    spent.append(time.thread_time())


def name_of(pid: int) -> str:
    """What a process is called: Ray's workers by what they run, others by their program or script."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").split()
    except OSError:
        return "ended"
    if not words or words[0].startswith("ray::"):
        return " ".join(words[:1]) or "ended"
    script = next((word for word in words[1:] if word.endswith(".py") or word.startswith("orchestrator")), "")
    return Path(script or words[0]).name


def family(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:  # it has just ended
                continue
            children.setdefault(parent, []).append(int(entry))
    found = [pid]
    for member in found:  # grows as it goes
        found += children.get(member, [])
    return found


def pss_kib(pid: int) -> int:
    """A process's memory; what n processes share counts as an n-th in each."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
