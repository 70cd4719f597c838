"""What a leaderboard costs: time and peak memory for runs of 1250 to 10 000 trials and up to a million reports.

    python benchmarks/board.py [--json FILE] [--images 50] [--classes 19]

Each run has 25 methods, 45 search trials and 5 final runs of each on every pair, 100 reports per trial and, for the
final runs, counts of every picture and class. Doubling the pairs doubles every table. Each board is made by the
command that people use, in a process of its own, so start-up is in the figures.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from orchestrator.ledger.row_builders import count_rows
from orchestrator.ledger.tables import Ledger

METHODS, SEARCHED, SEEDS, REPORTS = 25, 45, 5, 100
PAIRS = (1, 2, 4, 8)
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

_MEASURE = """
import resource, sys
from orchestrator.leaderboard.__main__ import main
sys.argv[0] = "board"
main()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def write_run(root: Path, pairs: int, images: int, classes: int) -> dict[str, int]:
    """The tables of a finished sweep; returns their numbers of rows."""
    ledger, generator = Ledger(root), np.random.default_rng(pairs)
    trials, counts, ids = [], [], []
    for pair in range(pairs):
        for method in range(METHODS):
            for number in range(SEARCHED + SEEDS):
                trial_id = f"{len(ids):012x}"
                ids.append(trial_id)
                row = _trial(trial_id, pair, method, number, generator)
                if row["phase"] == "final":
                    quality = 0.6 + 0.004 * method + 0.02 * generator.standard_normal()
                    tp = (
                        1000 * np.clip(quality + 0.1 * generator.standard_normal((images, classes)), 0, 1)
                    ).astype(int)
                    counts.append(count_rows(trial_id, "test", range(images), tp, 1000 - tp, 1000 - tp))
                trials.append(row)
    ledger.append("trials", trials, "trials")
    ledger.append("counts", pa.concat_tables(counts), "counts")
    step = np.tile(np.arange(1, REPORTS + 1), len(ids))
    curves = {
        "trial_id": pa.array(np.repeat(ids, REPORTS)),
        "step": step,
        "loss_total": generator.random(len(step)),
    }
    ledger.append("curves", pa.table(curves), "curves")
    ledger.append("provenance", [{"provenance_id": "p", "created_at": START}], "p")
    return {name: ledger.read(name, ["trial_id"]).num_rows for name in ("trials", "curves", "counts")}


def _trial(
    trial_id: str, pair: int, method: int, number: int, generator: np.random.Generator
) -> dict[str, object]:
    final = number >= SEARCHED
    name = "student" if method == 0 else f"method-{method:02d}"
    return {
        "trial_id": trial_id,
        "attempt": 1,
        "study_id": f"{pair}.{name}",
        "phase": "final" if final else "search",
        "status": "ok" if final or number % 2 else "pruned",
        "dataset": "benchmark",
        "protocol": "clean",
        "pair": f"pair-{pair}",
        "teacher": "teacher",
        "student": f"student-{pair}",
        "method": name,
        "method_family": "baseline" if method == 0 else ("logits", "features", "relations")[method % 3],
        "seed": number - SEARCHED if final else 0,
        "recipe_hash": f"r{pair}",
        "params": {"weight": float(generator.random()), "temperature": float(generator.random())},
        "tune_miou": 0.6 + 0.004 * method + 0.02 * float(generator.standard_normal()),
        "student_seconds": 100.0,
        "gpu_seconds": 110.0,
        "finished_at": START + datetime.timedelta(seconds=number),
        "provenance_id": "p",
    }


def measure(root: Path) -> tuple[float, int]:
    """Seconds and peak bytes of `python -m orchestrator.leaderboard root`."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(root)], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - began, int(done.stdout.splitlines()[-1])


def main() -> None:
    """Writes one line per size, and all of it to --json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--classes", type=int, default=19)
    options = parser.parse_args()
    sizes = []
    for pairs in PAIRS:
        with tempfile.TemporaryDirectory() as folder:
            rows = write_run(Path(folder), pairs, options.images, options.classes)
            seconds, memory = min(measure(Path(folder)) for _ in range(3))
            page = (Path(folder) / "leaderboard" / "leaderboard.html").stat().st_size
        sizes.append(
            {**rows, "seconds": round(seconds, 2), "peak_mib": memory >> 20, "page_kb": page // 1000}
        )
        print(", ".join(f"{name} {value}" for name, value in sizes[-1].items()), flush=True)
    machine = {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
    }
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "sizes": sizes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
