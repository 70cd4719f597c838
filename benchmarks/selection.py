"""Which selection protocol chooses well for its cost: a table of trainings, and protocols replayed on it.

    python benchmarks/selection.py train runs/selection --seeds 11 12 13 14 15 16 17 18
    python benchmarks/selection.py collect runs/selection
    python benchmarks/selection.py replay

`train` runs the sweep `studies/selection.yaml` once for each training seed. The configurations are the same for all
seeds. The same command resumes. `collect` writes the scores of the runs into `selection.parquet` beside this file.
`replay` chooses a configuration of each study as each protocol would, many times with other seeds and brackets, and
prints the mean regret and the cost of each protocol as a Markdown table, and how configurations and trainings spread.

The regret of a choice is the true mean tune mIoU of the best configuration less that of the chosen one, in points. The
truth of a table of few seeds is not known: its best configuration is also the luckiest. So the protocols are tried on
tables whose truth is known, drawn from the spread of configurations, seeds and trainings in this table. Beside it is the
regret on the table itself, in which a choice and the best configuration are valued by the seeds that the choice did not
use. The cost is in trainings to the last step. The first protocol is that of the presets before `search.finalists`.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pvariance

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.ledger.tables import Ledger

SWEEP = Path(__file__).parent / "studies" / "selection.yaml"
TABLE = Path(__file__).with_suffix(".parquet")
_SEEDS = 8
"""Seeds of a resampled table."""

Scores = NDArray[np.float64]
"""Tune mIoU in points: [configurations, seeds, quarters of the training]."""


@dataclass(frozen=True)
class Choice:
    """The configuration that a protocol chose, the seeds that it looked at, and its cost in whole trainings."""

    configuration: int
    seeds: frozenset[int]
    cost: float


@dataclass(frozen=True)
class Protocol:
    """A way to choose a configuration.

    Attributes:
        trials: configurations that are searched, drawn from those of the table.
        bracket: configurations that are compared at the rungs.
        rungs: share of the steps, and share of the bracket that goes on.
        seeds: trainings of each configuration of the search, each with a seed of its own; their mean counts.
        seed_per_bracket: each bracket has seeds of its own.
        finalists: the best finished configurations that are trained again; 0 takes the best finished one.
        fresh: fresh seeds of each finalist; their mean decides.
        with_search_score: the mean includes the score of the search.
        finalist_rungs: as `rungs`, of the finalists' trainings with their fresh seeds.
    """

    trials: int = 16
    bracket: int = 8
    rungs: tuple[tuple[float, float], ...] = ((0.25, 0.5), (0.5, 0.5))
    seeds: int = 1
    seed_per_bracket: bool = False
    finalists: int = 0
    fresh: int = 0
    with_search_score: bool = True
    finalist_rungs: tuple[tuple[float, float], ...] = ()

    def choose(self, scores: Scores, generator: np.random.Generator) -> Choice:
        """Search in random brackets with random seeds of the table."""
        order, configurations = generator.permutation(scores.shape[1]), generator.permutation(len(scores))
        configurations = configurations[: self.trials]
        found: dict[int, list[float]] = {}
        cost, used = 0.0, self.seeds
        for number, start in enumerate(range(0, len(configurations), self.bracket)):
            first = number * self.seeds if self.seed_per_bracket else 0
            used = max(used, first + self.seeds)
            of_bracket = scores[:, order[first : first + self.seeds]]
            running, trainings = _halved(
                of_bracket, configurations[start : start + self.bracket].tolist(), self.rungs
            )
            cost += trainings
            found |= {c: of_bracket[c, :, -1].tolist() for c in running}
        if self.finalists:
            best = sorted(found, key=lambda c: -fmean(found[c]))[: self.finalists]
            fresh, used = scores[:, order[used : used + self.fresh]], used + self.fresh
            best, trainings = _halved(fresh, best, self.finalist_rungs)
            cost += trainings
            found = {c: (found[c] if self.with_search_score else []) + fresh[c, :, -1].tolist() for c in best}
        chosen = max(found, key=lambda c: fmean(found[c]))
        return Choice(chosen, frozenset(order[:used].tolist()), cost)


def _halved(
    scores: Scores, running: list[int], rungs: tuple[tuple[float, float], ...]
) -> tuple[list[int], float]:
    """The configurations that train to the end, and what all of them cost; at a rung their mean over the seeds counts."""
    cost, before = 0.0, 0.0
    for rung, kept in rungs:
        cost += len(running) * (rung - before)
        at_rung = scores[:, :, round(rung * scores.shape[2]) - 1].mean(axis=1)
        running = sorted(running, key=lambda configuration, at_rung=at_rung: -at_rung[configuration])
        running, before = running[: math.ceil(kept * len(running))], rung
    return running, scores.shape[1] * (cost + len(running) * (1 - before))


_HALF, _QUARTER = ((0.5, 0.5),), ((0.5, 0.25),)
PROTOCOLS: Mapping[str, Protocol] = {
    "one seed": Protocol(),
    "one seed a bracket": Protocol(seed_per_bracket=True),
    "one seed, a rung at a half only": Protocol(rungs=_HALF),
    "one seed, no rungs": Protocol(rungs=()),
    "one seed, a quarter of 16 goes on at a half": Protocol(bracket=16, rungs=_QUARTER),
    "2 seeds, a quarter of 16 goes on at a quarter": Protocol(
        bracket=16, rungs=((0.25, 0.25), (0.5, 0.5)), seeds=2
    ),
    "2 seeds": Protocol(seeds=2),
    "2 finalists, 1 fresh seed": Protocol(finalists=2, fresh=1),
    "2 finalists, 2 fresh seeds": Protocol(finalists=2, fresh=2),
    "2 finalists, 2 fresh seeds, without the search's score": Protocol(
        finalists=2, fresh=2, with_search_score=False
    ),
    "4 finalists, 1 fresh seed": Protocol(finalists=4, fresh=1),
    "4 finalists, 1 fresh seed, without the search's score": Protocol(
        finalists=4, fresh=1, with_search_score=False
    ),
    "a quarter of 16 at a half, 2 finalists, 1 fresh seed": Protocol(
        bracket=16, rungs=_QUARTER, finalists=2, fresh=1
    ),
    "8 trials, one seed": Protocol(trials=8),
    "8 trials, 2 finalists, 1 fresh seed (`scenes`)": Protocol(trials=8, finalists=2, fresh=1),
    "2 finalists, 2 fresh seeds, halved at a half": Protocol(finalists=2, fresh=2, finalist_rungs=_HALF),
    "4 finalists, 1 fresh seed, halved at a half": Protocol(finalists=4, fresh=1, finalist_rungs=_HALF),
    "4 finalists, 2 fresh seeds, halved at a half": Protocol(finalists=4, fresh=2, finalist_rungs=_HALF),
    "4 finalists, 2 fresh seeds, halved at a quarter and a half": Protocol(
        finalists=4, fresh=2, finalist_rungs=((0.25, 0.5), (0.5, 0.5))
    ),
    "4 finalists, 2 fresh seeds": Protocol(finalists=4, fresh=2),
    "4 finalists, 3 fresh seeds": Protocol(finalists=4, fresh=3),
    "2 seeds, no rungs": Protocol(rungs=(), seeds=2),
    "4 seeds, no rungs": Protocol(rungs=(), seeds=4),
}


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
        studies = studies_of(pd.read_parquet(TABLE))
        print("\n".join([*regret_table(studies, options.replays), "", *spread_table(studies)]))
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


def replayed_regret(scores: Scores, protocol: Protocol, replays: int) -> float:
    """Mean regret in points of a protocol on the table of one study.

    A chosen configuration and the best one of all are valued by the seeds that the choice did not use. The best one is
    the one that did best with all seeds, these included, so its value is too high, by the same for every protocol.
    """
    best = int(scores[:, :, -1].mean(axis=1).argmax())
    generator = np.random.default_rng(0)
    regrets = []
    for _ in range(replays):
        choice = protocol.choose(scores, generator)
        fresh = [seed for seed in range(scores.shape[1]) if seed not in choice.seeds]
        value = scores[:, fresh, -1].mean(axis=1)
        regrets.append(value[best] - value[choice.configuration])
    return fmean(regrets)


def resampled_regret(scores: Scores, protocol: Protocol, replays: int) -> tuple[float, float, float]:
    """Mean regret in points, its variance, and mean cost, of a protocol on tables whose truth is known, drawn from this one."""
    generator = np.random.default_rng(0)
    regrets, costs = [], []
    for _ in range(replays):
        truth, drawn = resampled(scores, generator)
        choice = protocol.choose(drawn, generator)
        regrets.append(truth.max() - truth[choice.configuration])
        costs.append(choice.cost)
    return fmean(regrets), pvariance(regrets) / replays, fmean(costs)


def resampled(scores: Scores, generator: np.random.Generator) -> tuple[NDArray[np.float64], Scores]:
    """A table of eight new seeds, and the true last scores of its configurations.

    The truth is the configurations' means, drawn together so that they spread as configurations do without the noise of the
    means. A seed has the effect of a random seed of the table on all configurations, and each training the residuals of a
    random training of the table.
    """
    seeds = scores.shape[1]
    means = scores.mean(axis=1)
    effects = (scores - means[:, None]).mean(axis=0)
    residuals = scores - means[:, None] - effects
    residuals *= math.sqrt(seeds / (seeds - 1))
    noise = residuals.var(axis=(0, 1)) / seeds
    spread = means.var(axis=0, ddof=1)
    shrunk = np.sqrt(np.maximum(0.0, 1 - noise / spread)) if (spread > 0).all() else 1.0
    truth = means.mean(axis=0) + shrunk * (means - means.mean(axis=0))
    pool = residuals.reshape(-1, scores.shape[2])
    drawn = pool[generator.integers(0, len(pool), (len(scores), _SEEDS))]
    return truth[:, -1], truth[:, None] + effects[generator.integers(0, seeds, _SEEDS)] + drawn


def regret_table(studies: Mapping[str, Scores], replays: int) -> list[str]:
    """Markdown: a row per protocol with its cost, its two mean regrets over the studies, and the resampled one on each.

    The number behind ± is the standard error over the drawn tables.
    """
    lines = [
        f"| protocol | trainings | regret | regret, replayed | {' | '.join(studies)} |",
        "| --- " * (4 + len(studies)) + "|",
    ]
    for title, protocol in PROTOCOLS.items():
        found = [resampled_regret(scores, protocol, replays) for scores in studies.values()]
        old = fmean(replayed_regret(scores, protocol, replays) for scores in studies.values())
        cells = " | ".join(f"{points:.2f}" for points, _, _ in found)
        points, variance, cost = (fmean(values) for values in zip(*found, strict=True))
        error = math.sqrt(variance / len(found))
        lines.append(f"| {title} | {cost:.0f} | {points:.2f} ± {error:.2f} | {old:.2f} | {cells} |")
    return lines


def spread_table(studies: Mapping[str, Scores]) -> list[str]:
    """Markdown: the standard deviations, in points, of a configuration's true mean and of one training about it."""
    lines = ["| study | seeds | SD of configurations | SD of a training |", "| --- | --- | --- | --- |"]
    for title, scores in studies.items():
        last, seeds = scores[:, :, -1], scores.shape[1]
        residuals = last - last.mean(axis=1, keepdims=True) - last.mean(axis=0) + last.mean()
        noise = (residuals**2).sum() / ((len(last) - 1) * (seeds - 1))
        spread = max(0.0, last.mean(axis=1).var(ddof=1) - noise / seeds)
        lines.append(f"| {title} | {seeds} | {math.sqrt(spread):.2f} | {math.sqrt(noise):.2f} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
