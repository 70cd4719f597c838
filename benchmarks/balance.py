"""Does a space relative to the task's loss need fewer trials than an absolute one? `python benchmarks/balance.py`.

One sweep on the scenes and pairs of the preset `laptop`: every method twice, searched in the absolute space that ships
with it and in one where each weight is relative (`balanced.<term>_weight`, log-uniform 0.1 to 10, the same for every
method), all else equal and nothing pruned. Writes `benchmarks/balance.json` and prints, by pair and method, the tune
mIoU that the best of n random trials is expected to have (in points, with its standard error by bootstrap over trials)
and how many trials of each space it takes to expect what 8 of the absolute one give.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distill.relative_weights import PREFIX
from orchestrator.leaderboard.statistics import expected_best
from search_spaces import load_space

METHODS = ("kd", "heteroakd", "at")
RELATIVE = {"log_uniform": [0.1, 10.0]}
BEST_OF = (1, 2, 4, 8, 16)
GOAL = 8
RESULT = Path(__file__).with_suffix(".json")


def main() -> None:
    """Runs the sweep (or goes on with it) and compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=25, help="the published default, and so many less one")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("runs/balance"))
    options = parser.parse_args()
    settings = [
        f"methods={json.dumps(['student', *(choice for method in METHODS for choice in _choices(method))])}",
        f"search.trials={options.trials}",
        f"search.bracket={min(options.trials, 16)}",
        "search.rungs=[]",
        f"recipes.cnn_student.steps={options.steps}",
        f"recipes.transformer_student.steps={options.steps}",
        "final.seeds=[1]",
    ]
    command = [sys.executable, "-m", "orchestrator.sweep", "laptop", "--output", str(options.output)]
    subprocess.run(command + [part for setting in settings for part in ("--set", setting)], check=True)
    rows = compare(pd.read_parquet(options.output / "tables" / "trials"))
    report = {"steps": options.steps, "trials": options.trials, "rows": rows}
    RESULT.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(pd.DataFrame(rows).to_string(index=False))


def compare(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """A row per pair, method and space; the default trial, which both spaces share, is left out."""
    searched = trials[(trials.phase == "search") & (trials.status == "ok") & (trials.method != "student")]
    searched = searched[searched.searched.map(lambda drawn: any(text != "null" for _, text in drawn))]
    scores = {key: group.tune_miou.to_numpy() for key, group in searched.groupby(["pair", "method"])}
    rows = []
    for pair in sorted({pair for pair, _ in scores}):
        for method in METHODS:
            goal = expected_best(tuple(scores[pair, f"{method}_absolute"]))[GOAL - 1]
            for space in ("absolute", "relative"):
                found = scores[pair, f"{method}_{space}"]
                curve = expected_best(tuple(found))
                enough = next((n for n, score in enumerate(curve, start=1) if score >= goal), None)
                told = {f"best of {n}": _with_error(found, n) for n in BEST_OF if n <= len(found)}
                rows.append({"pair": pair, "method": method, "space": space, "n": len(found), **told,
                             f"trials to the absolute best of {GOAL}": enough})  # fmt: skip
    return rows


def _with_error(scores: np.ndarray, n: int) -> str:
    random = np.random.default_rng(0)
    drawn = [expected_best(tuple(random.choice(scores, len(scores))))[n - 1] for _ in range(400)]
    return f"{100 * expected_best(tuple(scores))[n - 1]:.1f} ± {100 * np.std(drawn):.1f}"


def _choices(method: str) -> list[dict[str, Any]]:
    space = load_space(method).model_dump(mode="json", exclude_none=True)["parameters"]
    relative = {
        (PREFIX + name if name.endswith("_weight") else name): RELATIVE
        if name.endswith("_weight")
        else domain
        for name, domain in space.items()
    }
    config = {"tap": "stride8"} if method == "heteroakd" else {}
    return [
        {"name": method, "label": f"{method}_absolute", "config": config},
        {"name": method, "label": f"{method}_relative", "config": config, "space": relative},
    ]


if __name__ == "__main__":
    main()
