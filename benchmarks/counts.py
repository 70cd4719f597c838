"""What the table `counts` costs without its rows of zeros, and with them: `python benchmarks/counts.py`.

Writes the counts of 10 final runs on 2000 images of 150 classes (the size of ADE20K), about 15 classes an image, once
as a sweep writes them and once with all rows, as earlier versions did. Prints a table: rows, bytes on disk, and seconds
and peak memory of a process that reads the table (median of the rounds), from one file a run and from a compacted one.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from orchestrator.ledger.row_builders import count_rows
from orchestrator.ledger.tables import Ledger

_READ = """
import sys, time
from orchestrator.ledger.tables import Ledger
began = time.perf_counter()
rows = Ledger(sys.argv[1]).read("counts").num_rows
seconds = time.perf_counter() - began
# Not ru_maxrss: a process starts with that of the process it was forked from.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(rows, seconds, int(peak) / 1024)
"""


def main() -> None:
    """Prints one line per form of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("runs", 10), ("images", 2000), ("classes", 150), ("present", 15), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    print(
        "| rows | files | rows per run | MB on disk | seconds to compact | seconds to read | peak memory (MiB) |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for form in ("all", "without zeros"):
        with tempfile.TemporaryDirectory() as folder:
            ledger = Ledger(folder)
            for run in range(options.runs):
                ledger.append("counts", _rows(run, form, options), f"run-{run}")
            _report(form, ledger, "", options)
            began = time.perf_counter()
            ledger.compact("counts")
            _report(form, ledger, f"{time.perf_counter() - began:.2f}", options)


def _rows(run: int, form: str, options: argparse.Namespace) -> pa.Table:
    """Counts of one run: in each image a share of the classes has pixels, in labels, predictions or both."""
    generator = np.random.default_rng(run)
    size = (options.images, options.classes)
    tp, fp, fn = generator.integers(0, 20_000, (3, *size)) * (
        generator.random(size) < options.present / options.classes
    )
    names = [f"class {number}" for number in range(options.classes)]
    images = np.arange(options.images)
    if form == "without zeros":
        return count_rows(f"run-{run}", "test", images, tp, fp, fn, names)
    return pa.table(
        {
            "trial_id": [f"run-{run}"] * tp.size,
            "split": ["test"] * tp.size,
            "image": np.repeat(images, options.classes),
            "class": np.tile(np.arange(options.classes), options.images),
            "tp": tp.reshape(-1),
            "fp": fp.reshape(-1),
            "fn": fn.reshape(-1),
            "class_name": names * options.images,
        }
    )


def _report(form: str, ledger: Ledger, compaction: str, options: argparse.Namespace) -> None:
    found = []
    for _ in range(options.rounds):
        command = [sys.executable, "-c", _READ, ledger.root]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append([float(value) for value in done.stdout.split()])
    rows, seconds, memory = (statistics.median(values) for values in zip(*found, strict=True))
    files = [Path(ledger.root) / path for path in ledger.list("tables/counts")]
    size = sum(file.stat().st_size for file in files)
    print(
        f"| {form} | {len(files)} | {rows / options.runs:,.0f} | {size / 1e6:.1f} | {compaction} | {seconds:.2f} "
        f"| {memory:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
