"""Which selection protocol chooses well for its cost: a table of trainings, and protocols replayed on it.

    python benchmarks/selection.py train runs/selection --seeds 11 12 13 14 15 16 17 18
    python benchmarks/selection.py collect runs/selection
    python benchmarks/selection.py replay

`train` runs the sweep `studies/selection.yaml` once for each training seed. The configurations are the same for all
seeds. The same command resumes. `collect` writes the scores of the runs into `selection.parquet` beside this file.
`replay` chooses a configuration of each study as each protocol would, many times with other seeds and brackets, and
prints the mean regret and the cost of each protocol as a Markdown table.

The regret of a choice is the value of the best configuration less the value of the chosen one, in points. The value
of a configuration is its mean tune mIoU at the last step over the seeds that the choice did not use; the best
configuration is the one with the highest mean over all seeds. The cost is in trainings to the last step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.ledger.tables import Ledger

SWEEP = Path(__file__).parent / "studies" / "selection.yaml"
TABLE = Path(__file__).with_suffix(".parquet")
BRACKET = 8
RUNGS = (0.25, 0.5)
"""Of the presets `scenes` and `laptop`."""

Scores = NDArray[np.float64]
"""Tune mIoU in points: [configurations, seeds, quarters of the training]."""


@dataclass(frozen=True)
class Choice:
    """The configuration that a protocol chose, the seeds that it looked at, and its cost in whole trainings."""

    configuration: int
    seeds: frozenset[int]
    cost: float


Protocol = Callable[[Scores, np.random.Generator], Choice]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train")
    train.add_argument("folder", type=Path)
    train.add_argument("--seeds", type=int, nargs="+", default=list(range(11, 19)))
    commands.add_parser("collect").add_argument("folder", type=Path)
    commands.add_parser("replay").add_argument("--replays", type=int, default=4000)
    options = parser.parse_args()
    if options.command == "train":
        return train_table(options.folder, options.seeds)
    if options.command == "collect":
        collect(options.folder).to_parquet(TABLE, index=False)
        print(TABLE)
    else:
        print("\n".join(regret_table(studies_of(pd.read_parquet(TABLE)), options.replays)))
    return 0


def train_table(folder: Path, seeds: list[int]) -> int:
    """Run the sweep once for each training seed; returns the first exit code that is not 0."""
    for seed in seeds:
        command = [sys.executable, "-m", "orchestrator.sweep", str(SWEEP), "--output", str(folder / f"seed-{seed}"),
                   "--set", f"search.training_seeds=[{seed}]",
                   "--set", f"operation.teachers={folder / 'teachers'}"]  # fmt: skip
        code = subprocess.run(command, check=False).returncode
        if code != 0:
            return code
    return 0


def collect(folder: Path) -> pd.DataFrame:
    """One row per study, configuration, seed and evaluated step, from the finished search trials of all runs.

    The rows of the seeds that the table has already are kept, so it can be trained in parts and on several machines.
    """
    frames = []
    for run in sorted(folder.glob("seed-*")):
        trials = Ledger(run).read("trials").to_pandas()
        trials = trials[(trials.phase == "search") & (trials.status == "ok")]
        trials["configuration"] = [json.dumps(dict(sorted(dict(params).items()))) for params in trials.params]
        curves = Ledger(run).read("curves").to_pandas()[["trial_id", "step", "tune_miou"]].dropna()
        facts = ["trial_id", "pair", "method", "configuration", "seed", "steps_planned"]
        frames.append(trials[facts].merge(curves, on="trial_id").drop(columns="trial_id"))
    found = pd.concat(frames, ignore_index=True)
    if TABLE.exists():
        known = pd.read_parquet(TABLE)
        found = pd.concat([known[~known["seed"].isin(found["seed"])], found], ignore_index=True)
    return found.sort_values(["pair", "method", "configuration", "seed", "step"], ignore_index=True)


def studies_of(table: pd.DataFrame) -> dict[str, Scores]:
    """The scores of each study, of the seeds with which all configurations were trained."""
    found = {}
    for (pair, method), rows in table.groupby(["pair", "method"]):
        wide = 100 * rows.pivot_table(
            index="configuration", columns=["seed", "step"], values="tune_miou", sort=True
        )
        whole = wide.dropna(axis="columns")
        seeds = whole.columns.get_level_values("seed").unique()
        found[f"{pair}.{method}"] = whole.to_numpy().reshape(len(whole), len(seeds), -1)
    return found


def one_seed(scores: Scores, generator: np.random.Generator) -> Choice:
    """All brackets with one seed; the best finished trial."""
    return _searched(scores, generator, lambda bracket: 0).choice()


def seed_per_bracket(scores: Scores, generator: np.random.Generator) -> Choice:
    """Each bracket with a seed of its own; the best finished trial."""
    return _searched(scores, generator, lambda bracket: bracket).choice()


def every_configuration_twice(scores: Scores, generator: np.random.Generator) -> Choice:
    """Each configuration with two seeds, halved by the mean of both; the best mean."""
    seeds = generator.permutation(scores.shape[1])[:2]
    means = scores[:, seeds].mean(axis=1, keepdims=True)
    found = _search(means, generator, lambda bracket: 0)
    return Choice(found.choice().configuration, frozenset(seeds.tolist()), 2 * found.cost)


def finalists(count: int, fresh: int, *, with_search_score: bool, per_bracket: bool = False) -> Protocol:
    """The best `count` finished trials again with `fresh` other seeds; the best mean of those, or of those and the first."""

    def protocol(scores: Scores, generator: np.random.Generator) -> Choice:
        searched = _searched(
            scores, generator, (lambda bracket: bracket) if per_bracket else lambda bracket: 0
        )
        best = sorted(searched.finished, key=lambda c: -searched.finished[c])[:count]
        unused = [
            seed for seed in generator.permutation(scores.shape[1]).tolist() if seed not in searched.seeds
        ]
        seeds = unused[:fresh]
        values = {}
        for configuration in best:
            own = [searched.finished[configuration]] if with_search_score else []
            values[configuration] = np.mean([*own, *scores[configuration, seeds, -1]])
        chosen = max(best, key=lambda c: values[c])
        return Choice(chosen, searched.seeds | set(seeds), searched.cost + len(best) * fresh)

    return protocol


@dataclass(frozen=True)
class _Search:
    finished: Mapping[int, float]
    seeds: frozenset[int]
    cost: float

    def choice(self) -> Choice:
        best = max(self.finished, key=lambda configuration: self.finished[configuration])
        return Choice(best, self.seeds, self.cost)


def _searched(
    scores: Scores, generator: np.random.Generator, seed_of_bracket: Callable[[int], int]
) -> _Search:
    """A search in which bracket b is trained with seed `seed_of_bracket(b)` of a random order of seeds."""
    order = generator.permutation(scores.shape[1])
    found = _search(scores[:, order], generator, seed_of_bracket)
    return _Search(found.finished, frozenset(int(order[seed]) for seed in found.seeds), found.cost)


def _search(scores: Scores, generator: np.random.Generator, seed_of_bracket: Callable[[int], int]) -> _Search:
    """Random brackets, each halved at the rungs."""
    finished: dict[int, float] = {}
    seeds, cost = set(), 0.0
    configurations = generator.permutation(len(scores))
    for number, start in enumerate(range(0, len(configurations), BRACKET)):
        running = list(configurations[start : start + BRACKET])
        seed, before = seed_of_bracket(number), 0.0
        seeds.add(seed)
        for rung in RUNGS:
            cost += len(running) * (rung - before)
            quarter = round(rung * scores.shape[2]) - 1
            running.sort(key=lambda c: -scores[c, seed, quarter])
            running, before = running[: -(-len(running) // 2)], rung
        cost += len(running) * (1 - before)
        finished |= {int(c): float(scores[c, seed, -1]) for c in running}
    return _Search(finished, frozenset(seeds), cost)


PROTOCOLS: Mapping[str, Protocol] = {
    "one seed": one_seed,
    "one seed a bracket": seed_per_bracket,
    "every configuration with two seeds": every_configuration_twice,
    "2 finalists, 1 fresh seed": finalists(2, 1, with_search_score=False),
    "2 finalists, 1 fresh seed, with the search's score": finalists(2, 1, with_search_score=True),
    "2 finalists, 2 fresh seeds": finalists(2, 2, with_search_score=False),
    "4 finalists, 1 fresh seed": finalists(4, 1, with_search_score=False),
    "4 finalists, 1 fresh seed, with the search's score": finalists(4, 1, with_search_score=True),
    "4 finalists, 1 fresh seed, one seed a bracket": finalists(
        4, 1, with_search_score=False, per_bracket=True
    ),
    "4 finalists, 2 fresh seeds": finalists(4, 2, with_search_score=False),
    "4 finalists, 3 fresh seeds": finalists(4, 3, with_search_score=False),
}


def regret(scores: Scores, protocol: Protocol, replays: int) -> tuple[float, float]:
    """Mean regret in points and mean cost in trainings of a protocol on one study."""
    best = int(scores[:, :, -1].mean(axis=1).argmax())
    generator = np.random.default_rng(0)
    regrets, costs = [], []
    for _ in range(replays):
        choice = protocol(scores, generator)
        fresh = [seed for seed in range(scores.shape[1]) if seed not in choice.seeds]
        value = scores[:, fresh, -1].mean(axis=1)
        regrets.append(value[best] - value[choice.configuration])
        costs.append(choice.cost)
    return float(np.mean(regrets)), float(np.mean(costs))


def regret_table(studies: Mapping[str, Scores], replays: int) -> list[str]:
    """Markdown: a row per protocol with its cost, its mean regret over the studies, and the regret on each."""
    names = list(studies)
    lines = [
        f"| protocol | trainings | mean regret | {' | '.join(names)} |",
        "| --- " * (3 + len(names)) + "|",
    ]
    for title, protocol in PROTOCOLS.items():
        found = [regret(scores, protocol, replays) for scores in studies.values()]
        cells = " | ".join(f"{points:.2f}" for points, _ in found)
        mean = np.mean([points for points, _ in found])
        lines.append(f"| {title} | {np.mean([cost for _, cost in found]):.0f} | {mean:.2f} | {cells} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
