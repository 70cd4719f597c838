"""Compares methods by their scores: paired differences, adjusted tests, rank intervals, and what could be detected."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from orchestrator.leaderboard.scores import Estimate, Scores
from orchestrator.leaderboard.statistics import (
    SIGNIFICANCE,
    Reals,
    detectable_difference,
    holm,
    needed_count,
    percentile_interval,
    rank_intervals,
    ratio_interval,
    t_probability,
)

BETTER, WORSE = "better", "worse"


@dataclass(frozen=True)
class Difference:
    """The mIoU of one method minus that of another, paired by pair and seed.

    `estimate` has the t interval over seeds, or over searches if there are several. `over_images` is the bootstrap
    interval over test images, None without counts. `probability` is the adjusted two-sided p value.
    """

    estimate: Estimate
    over_images: tuple[float, float] | None
    probability: float | None

    @property
    def sure(self) -> str:
        """`BETTER`, `WORSE` or empty: the adjusted p is below 0.05, and both kinds of noise agree on the sign.

        The interval over images must be on the same side of zero as the mean, if there is one.
        """
        mean, p = self.estimate.mean, self.probability
        if p is None or p >= SIGNIFICANCE or mean == 0:
            return ""
        low, high = self.over_images or (mean, mean)
        return BETTER if mean > 0 and low > 0 else WORSE if mean < 0 and high < 0 else ""

    def reversed(self) -> Difference:
        """The difference of the same methods in the other order."""
        ends = self.estimate.low, self.estimate.high
        low, high = (None if end is None else -end for end in reversed(ends))
        images = None if self.over_images is None else (-self.over_images[1], -self.over_images[0])
        return Difference(Estimate(-self.estimate.mean, low, high), images, self.probability)


@dataclass(frozen=True)
class Standing:
    """A method's result over the ranked pairs and the seeds that are complete on them.

    `gain` is the difference to the student alone: None for the student itself, and without a shared seed.
    """

    method: str
    miou: Estimate
    gain: Difference | None
    gap_closed: Estimate | None
    rank: tuple[int, int]
    seeds: int


@dataclass(frozen=True)
class Resolution:
    """What the differences from the student alone could have shown.

    `gain` is the smallest true gain that one two-sided test at 5 % finds with a probability of 80 %, with `replicates`
    seeds (or searches) whose paired differences have the standard deviation `deviation`. `for_half` is the number of
    seeds (or searches) that finds half of that gain.
    """

    replicates: int
    deviation: float
    gain: float
    for_half: int


@dataclass(frozen=True)
class Comparison:
    """Standings by method, best first, and the difference of every two methods, in both orders."""

    standings: tuple[Standing, ...]
    differences: Mapping[tuple[str, str], Difference]
    resolution: Resolution | None

    @property
    def tested(self) -> bool:
        """Whether any two methods have a p value."""
        return any(difference.probability is not None for difference in self.differences.values())


def compare(
    scores: Scores,
    teachers: Mapping[str, float] | None = None,
    unfinished: Set[str] = frozenset(),
    families: int = 1,
) -> Comparison:
    """Differences with adjusted p values, gains and rank intervals of the methods that have a complete seed.

    All claims of a board are one family: Holm's adjustment keeps the probability of any false one at 5 %. Half of
    that is for the comparisons with the student alone, half for all others.

    Args:
        scores: the scores of the final runs.
        teachers: mIoU of the teacher by pair; the closed share of the gap needs it for every ranked pair.
        unfinished: methods with final runs still to come. They have no p value and are in no claim. Their tests count in
            the adjustment as if their p were 1, so a claim made before the end is also made at the end. If the student
            alone is unfinished, all methods are.
        families: how many such comparisons share the 5 %, this one among them (Bonferroni): the pairs, for claims on each.
    """
    ranked = [method for method in scores.methods if scores.complete_seeds(method)]
    if unfinished and (scores.baseline is None or scores.baseline in unfinished):
        unfinished = {*unfinished, *ranked}
    differences = dict(_differences(scores, ranked, unfinished, families))
    differences |= {couple[::-1]: found.reversed() for couple, found in differences.items()}
    flags = np.array(
        [
            [(one, other) in differences and differences[one, other].sure == BETTER for other in ranked]
            for one in ranked
        ],
        dtype=bool,
    )
    ranks = rank_intervals(flags.reshape(len(ranked), len(ranked)))
    standings = []
    for method, rank in zip(ranked, ranks, strict=True):
        seeds = scores.complete_seeds(method)
        miou = Estimate.of(scores.per_replicate(method, seeds))
        assert miou is not None  # only methods with a complete seed are ranked
        gain = differences.get((method, scores.baseline or ""))
        closed = _gap_closed(scores, method, teachers or {}) if gain is not None else None
        standings.append(Standing(method, miou, gain, closed, rank, len(seeds)))
    standings.sort(key=lambda s: (-s.gain.estimate.mean if s.gain else 0.0, -s.miou.mean, s.method))
    return Comparison(tuple(standings), differences, _resolution(scores, ranked))


def _differences(
    scores: Scores, ranked: Sequence[str], unfinished: Set[str], families: int
) -> Iterator[tuple[tuple[str, str], Difference]]:
    """The difference of every two ranked methods that share a seed, in one order."""
    # Most couples share their seeds, so each method's means are computed once per set of seeds.
    means = functools.cache(lambda method, seeds: scores.per_replicate(method, seeds))
    resampled = functools.cache(lambda method, seeds: scores.per_draw(method, seeds))
    couples, estimates, over_images, raw = [], [], [], []
    for one, other in itertools.combinations(ranked, 2):
        seeds = tuple(scores.complete_seeds(one, other))
        if not seeds:
            continue
        values = means(one, seeds) - means(other, seeds)
        drawn = resampled(one, seeds) - resampled(other, seeds)
        couples.append((one, other))
        estimates.append(Estimate.of(values))
        over_images.append(None if np.isnan(drawn).any() else percentile_interval(drawn))
        raw.append(1.0 if unfinished & {one, other} else float(t_probability(values)))
    shared = set(couples)
    later = [
        couple
        for couple in itertools.combinations(sorted({*ranked, *unfinished}), 2)
        if unfinished & set(couple) and couple not in shared
    ]
    family = [*couples, *later]
    raw += [1.0] * len(later)
    adjusted = np.minimum(families * holm(np.array(raw), _weights(family, raw, scores.baseline)), 1.0)
    for couple, estimate, images, p in zip(
        couples, estimates, over_images, adjusted[: len(couples)], strict=True
    ):
        if estimate is not None:
            is_open = math.isnan(p) or bool(unfinished & set(couple))
            yield couple, Difference(estimate, images, None if is_open else float(p))


def _weights(couples: Sequence[tuple[str, str]], raw: Sequence[float], baseline: str | None) -> Reals:
    """Weights of the tests: those with the student alone have half of the sum, all others the other half."""
    with_student = np.array([baseline in couple for couple in couples], dtype=bool)
    tested = ~np.isnan(np.array(raw))
    students, others = (int((tested & kind).sum()) for kind in (with_student, ~with_student))
    if not students or not others:
        return np.ones(len(couples))
    return np.where(with_student, float(others), float(students))


def _gap_closed(scores: Scores, method: str, teachers: Mapping[str, float]) -> Estimate | None:
    """The gain as a share of the teacher's lead over the student alone; None if the teacher does not lead."""
    pairs = [scores.pairs[place] for place in scores.ranked_pairs]
    if scores.baseline is None or not all(pair in teachers for pair in pairs):
        return None
    seeds = scores.complete_seeds(method, scores.baseline)
    if not seeds:
        return None
    student = scores.per_replicate(scores.baseline, seeds)
    teacher = math.fsum(teachers[pair] for pair in pairs) / len(pairs)
    ratio, low, high = ratio_interval(scores.per_replicate(method, seeds) - student, teacher - student)
    return None if math.isnan(ratio) else Estimate.with_ends(ratio, low, high)


def _resolution(scores: Scores, ranked: Sequence[str]) -> Resolution | None:
    """From the pooled variance of all methods' paired differences from the student; None without an interval."""
    squares, freedom, fewest = 0.0, 0, math.inf
    for method in ranked if scores.baseline in ranked else ():
        seeds = scores.complete_seeds(method, scores.baseline or "")
        if method == scores.baseline or not seeds:
            continue
        values = scores.per_replicate(method, seeds) - scores.per_replicate(scores.baseline or "", seeds)
        squares += float(((values - values.mean()) ** 2).sum())
        freedom += len(values) - 1
        fewest = min(fewest, len(values))
    if fewest < 2 or squares == 0 or not freedom:
        return None
    deviation, count = math.sqrt(squares / freedom), int(fewest)
    gain = detectable_difference(deviation, count)
    return Resolution(count, deviation, gain, needed_count(gain / 2, deviation))
