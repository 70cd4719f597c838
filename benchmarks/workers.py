"""What a second worker is worth: `python benchmarks/workers.py [--repeats 3]`.

The sweep of `benchmarks/sweep.py`, eight trials of one pair, by one worker of one thread and by two, which divide each
batch (data parallel) or the students (`compute.parallelism`). Start-up is not counted: from the first student's first step to
the last one's scores. Tells the speed-up and, over the number of workers, the efficiency. Writes
`benchmarks/workers.json` and the page `docs/performance.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import measured
import performance
from sweep import TEACHERS, TRIALS, Bench

SIDES = {"one worker": (1, "batches"), "two, batches": (2, "batches"), "two, students": (2, "students")}


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
            seconds: dict[str, list[float]] = {side: [] for side in SIDES}
            benches = {
                side: Bench(Path(folder) / f"{pair}-{side}", [pair], options.steps, count, 1, divide)
                for side, (count, divide) in SIDES.items()
            }
            for _ in range(options.repeats):
                for side, bench in benches.items():
                    seconds[side].append(bench.ours(pair, TRIALS)["training_seconds"])
                    print(pair, side, round(seconds[side][-1], 1), flush=True)
            one, *two = SIDES
            found[pair] = {
                "training_seconds": seconds,
                "speed_up": {
                    side: [alone / both for alone, both in zip(seconds[one], seconds[side], strict=True)]
                    for side in two
                },
            }
            print(pair, found[pair]["speed_up"])
    report = {"machine": measured.machine(load), "steps": options.steps, "pairs": found}
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    performance.write(options.page, workers=options.json)


if __name__ == "__main__":
    main()
