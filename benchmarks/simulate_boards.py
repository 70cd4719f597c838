"""How often a board's claims are false and its intervals hold, where the truth is known: simulated boards.

    python benchmarks/simulate_boards.py [--boards 2000] [--output docs/simulated_boards.md]

A board has the student alone and other methods, on one pair or on three. A search draws configurations for each method
and pair; the mIoU of a configuration varies with SD 0, 1 or 2 points about the method's mean. It trains each configuration
once with the search's seed and keeps the best, or the best of a few finalists that are trained again with fresh seeds;
then the best is trained with final seeds. Every training varies with SD 2 points by its seed. The scores go through
`orchestrator.leaderboard.comparison.compare`, those of all pairs and those of each, as those of a real board do.

The tables have, by configuration SD and number of searches per study: how many boards make a false claim (surely better
or surely worse, of any two methods) over all pairs and on any single pair, and how many of the intervals of a gain over all
pairs hold the true gain. There are two truths:

- the configurations: the difference of the configurations that these searches found;
- the methods: the difference of the methods' expected results over searches.

In half of the boards all methods are truly equal; in the other half two methods truly differ from the student alone.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.leaderboard.comparison import BETTER, Comparison, compare
from orchestrator.leaderboard.scores import Scores
from orchestrator.leaderboard.statistics import Reals

SEED_SD = 2.0
CONFIGURATION_SDS = (0.0, 1.0, 2.0)
SEARCHES = (1, 2, 3, 5)
EQUAL, UNEQUAL = (0.0,) * 7, (4.0, -4.0, *(0.0,) * 5)


@dataclass(frozen=True)
class Design:
    """A board: the true gains of its methods, the searches of each study, and what varies. In points of mIoU.

    `finalists` of a search are trained again, with `fresh` seeds each; with 0 its best trial is the choice.
    """

    lifts: tuple[float, ...]
    configuration_sd: float
    searches: int
    pairs: int = 1
    seeds: int = 5
    trials: int = 16
    finalists: int = 0
    fresh: int = 2
    seed_sd: float = SEED_SD


@dataclass(frozen=True)
class Held:
    """Of one board and one truth: is any claim false, and how many of the intervals of a gain hold the true gain?

    `false_on_a_pair` is about the claims on single pairs; all else is about those over all pairs.
    """

    false_claim: bool
    false_on_a_pair: bool
    covered: int
    intervals: int


def simulate_board(design: Design, generator: np.random.Generator) -> tuple[Scores, Reals]:
    """The scores of one board, and the mean of the found configurations [methods, pairs]; method 0 is the student alone."""
    means = np.array([0.0, *design.lifts])
    shape = len(means), design.pairs, design.searches
    configurations = means[:, None, None, None] + design.configuration_sd * generator.normal(
        size=(*shape, design.trials)
    )
    searched = configurations + design.seed_sd * generator.normal(size=configurations.shape)
    if design.finalists:
        best = np.argsort(-searched, axis=-1)[..., : design.finalists]
        configurations = np.take_along_axis(configurations, best, axis=-1)
        noise = design.seed_sd * generator.normal(size=(*configurations.shape, design.fresh))
        again = (configurations[..., None] + noise).sum(axis=-1)
        searched = (np.take_along_axis(searched, best, axis=-1) + again) / (1 + design.fresh)
    chosen = searched.argmax(axis=-1)[..., None]
    found = np.take_along_axis(configurations, chosen, axis=-1)
    scores = found + design.seed_sd * generator.normal(size=(*shape, design.seeds))
    count = design.searches * design.seeds
    miou = 50 + scores.reshape(len(means), design.pairs, count)
    names = ("student", *(f"method {place}" for place in range(1, len(means))))
    board = Scores(
        methods=names,
        pairs=tuple(f"pair {place}" for place in range(design.pairs)),
        seeds=tuple(range(count)),
        repeats=tuple(np.repeat(np.arange(design.searches), design.seeds).tolist()),
        baseline="student",
        miou=miou,
        imputed=np.zeros(miou.shape, dtype=bool),
        resampled=np.full((*miou.shape, 1), np.nan),
    )
    return board, found[..., 0].mean(axis=2)


def read_board(scores: Scores, truths: Sequence[Reals]) -> list[Held]:
    """What the board's claims and intervals are worth under each truth: the methods' true means [methods, pairs]."""
    whole = compare(scores)
    on_pairs = [compare(scores.on(pair), families=len(scores.pairs)) for pair in scores.pairs]
    read = []
    for truth in truths:
        true = dict(zip(scores.methods, truth.mean(axis=1), strict=True))
        gains = [(s.method, s.gain.estimate) for s in whole.standings if s.gain is not None]
        held = [
            gain.low <= true[method] - true["student"] <= gain.high
            for method, gain in gains
            if gain.low is not None and gain.high is not None
        ]
        on_a_pair = any(
            claims_falsely(found, dict(zip(scores.methods, column, strict=True)))
            for found, column in zip(on_pairs, truth.T, strict=True)
        )
        read.append(Held(claims_falsely(whole, true), on_a_pair, sum(held), len(held)))
    return read


def claims_falsely(comparison: Comparison, true: Mapping[str, float]) -> bool:
    """Whether a comparison calls any method surely better or worse than another that truly is not."""
    return any(
        found.sure and not (true[one] > true[other] if found.sure == BETTER else true[one] < true[other])
        for (one, other), found in comparison.differences.items()
    )


@dataclass(frozen=True)
class Rates:
    """Shares of the boards with a false claim, and of the intervals that hold the true gain."""

    false_claims: float
    false_on_a_pair: float
    coverage: float


def rates(designs: Sequence[Design], boards: int, seed: int) -> tuple[Rates, Rates]:
    """Rates over `boards` boards, the designs in turn: with the configurations as the truth, and the methods."""
    generator = np.random.default_rng(seed)
    read: list[list[Held]] = []
    for design in itertools.islice(itertools.cycle(designs), boards):
        scores, found = simulate_board(design, generator)
        methods = np.repeat([[0.0, *design.lifts]], design.pairs, axis=0).T
        read.append(read_board(scores, (found, methods)))
    found_rates = [
        Rates(
            sum(held.false_claim for held in column) / boards,
            sum(held.false_on_a_pair for held in column) / boards,
            sum(held.covered for held in column) / sum(held.intervals for held in column),
        )
        for column in zip(*read, strict=True)
    ]
    return found_rates[0], found_rates[1]


def table(boards: int, **choices: int) -> list[str]:
    """Markdown: a row for each SD of configurations and number of searches; `choices` are fields of the designs."""
    lines = [
        "| SD of configurations | searches per study | a claim is about | boards with a false claim | on a single pair | "
        "intervals that hold |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for sd, searches in itertools.product(CONFIGURATION_SDS, SEARCHES):
        designs = [Design(lifts, sd, searches, **choices) for lifts in (EQUAL, UNEQUAL)]
        configurations, methods = rates(designs, boards, seed=17)
        if searches == 1:
            lines.append(_row(sd, searches, "the found configurations", configurations))
            lines.append(_row(sd, searches, "the methods (not what the board says)", methods))
        else:
            lines.append(_row(sd, searches, "the methods", methods))
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def page(boards: int, command: str) -> str:
    """The page of the documentation with the tables."""
    return "\n".join(
        [
            "# Simulated boards",
            "",
            "Simulated boards, for which the truth is known. A board has the student alone and seven methods, 16 trials per search",
            "and 5 final seeds per search. A training varies by its seed with SD 2 points, a configuration about its method's mean",
            "with the SD in the table. In half of the boards all methods are equal. In the other half one method is truly 4 points",
            "better than the student alone and one 4 points worse. The scores go through the board's own statistics.",
            "",
            'A false claim is a "surely better" or "surely worse" of any two methods that is not true: over all pairs, or on any of the',
            "pairs, which together have 5 % of their own. The intervals are the 95 % intervals of the gains over the student alone.",
            "",
            "One pair, and the search's best trial is chosen:",
            "",
            *table(boards),
            "",
            "Three pairs, and the best of two finalists with two fresh seeds each is chosen, as by default:",
            "",
            *table(boards, pairs=3, finalists=2),
            "",
            "With one search per study, a claim is about the configurations that these searches found, and the board says so: 95 % of",
            "the intervals hold the difference of these configurations. Read as a claim about the methods it is wrong more often the",
            "more configurations differ, because the luck of a search is in no interval over seeds. With `search.repeats` above 1 each",
            "study is searched several times, the intervals are over the searches, and the claims are about the methods. Two searches are",
            "enough for valid intervals, but these are wide: a t interval of two values is 12.7 standard errors to each side.",
            "",
            f"{boards} boards per row; the standard error of a rate near 5 % is {100 * (0.05 * 0.95 / boards) ** 0.5:.1f} points. Written by",
            "",
            "```sh",
            command,
            "```",
            "",
        ]
    )


def _row(sd: float, searches: int, about: str, found: Rates) -> str:
    return (
        f"| {sd:g} | {searches} | {about} | {100 * found.false_claims:.1f} % | {100 * found.false_on_a_pair:.1f} % | "
        f"{100 * found.coverage:.1f} % |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--boards", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path("docs/simulated_boards.md"))
    options = parser.parse_args()
    command = ["python", "benchmarks/simulate_boards.py", "--boards", str(options.boards)]
    options.output.write_text(page(options.boards, shlex.join(command)))
    print(options.output)


if __name__ == "__main__":
    main()
