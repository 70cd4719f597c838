"""What a second data-parallel worker is worth: `python benchmarks/workers.py [--repeats 3]`.

The sweep of `benchmarks/sweep.py`, eight trials of one pair, by one worker of one thread and by two: the same pictures, half
of each batch to each worker. Start-up is not counted: from the first student's first step to the last one's scores. Tells
the speed-up and, over the number of workers, the efficiency. Writes `benchmarks/workers.json` and the page
`docs/performance.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

import measured
import performance
from sweep import TEACHERS, TRIALS, Bench

WORKERS = (1, 2)


def main() -> None:
    """Measures in turns, prints each result as it comes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--pairs", nargs="+", choices=list(TEACHERS), default=list(TEACHERS))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--page", type=Path, default=performance.PAGE)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for pair in options.pairs:
            seconds: dict[int, list[float]] = {count: [] for count in WORKERS}
            benches = {
                count: Bench(Path(folder) / f"{pair}{count}", [pair], options.steps, count, threads=1)
                for count in WORKERS
            }
            for _ in range(options.repeats):
                for count, bench in benches.items():
                    seconds[count].append(bench.ours(pair, TRIALS)["training_seconds"])
                    print(pair, count, round(seconds[count][-1], 1), flush=True)
            gained = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
            found[pair] = {
                "training_seconds": seconds,
                "speed_up": gained,
                "efficiency": statistics.median(gained) / 2,
            }
            print(pair, "speed-up", [round(ratio, 2) for ratio in gained])
    report = {"machine": measured.machine(load), "steps": options.steps, "pairs": found}
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    performance.write(options.page, workers=options.json)


if __name__ == "__main__":
    main()
