"""Do the generated scenes still teach a student that has seen them all? `python benchmarks/labels.py`.

Trains the students of the preset `laptop` alone, by its recipe and without a search, on ever more labelled scenes, and
prints test mIoU in points: mean and standard deviation over seeds. A student that no longer improves could not be
helped by a teacher either.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd


def main() -> None:
    """Runs one sweep per number of scenes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, nargs="+", default=[30, 60, 120, 240])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, default=Path("runs/labels"))
    options = parser.parse_args()
    columns = {}
    for scenes in options.scenes:
        run = options.output / str(scenes)
        settings = [
            f"data.scenes.train={scenes}",
            "methods=[student]",
            "search.trials=0",
            f"final.seeds={options.seeds}",
        ]
        command = [sys.executable, "-m", "orchestrator.sweep", "laptop", "--output", str(run)]
        for setting in settings:
            command += ["--set", setting]
        subprocess.run(command, check=True)
        columns[scenes] = final_scores(run)
    print(pd.DataFrame(columns).rename_axis("labelled scenes", axis="columns").to_string())


def final_scores(run: Path) -> pd.Series:
    """Pair → "mean ± standard deviation" of its final runs' test mIoU, in points."""
    trials = pd.read_parquet(run / "tables" / "trials")
    scores = 100 * trials[trials.phase == "final"].groupby("pair").test_miou.agg(["mean", "std"])
    return scores.apply(lambda row: f"{row['mean']:.1f} ± {row['std']:.1f}", axis="columns")


if __name__ == "__main__":
    main()
