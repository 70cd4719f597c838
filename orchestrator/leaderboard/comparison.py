"""Compares methods by their scores on pairs and seeds: means, intervals, tests and rank intervals."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.leaderboard.run_records import ImageCounts, TrialRecord
from orchestrator.leaderboard.statistics import (
    Flags,
    Integers,
    Reals,
    holm,
    image_draws,
    percentile_interval,
    rank_intervals,
    resampled_mean_iou,
    t_interval,
    t_probability,
)

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; the ends are None for a single value."""

    mean: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Reals) -> Estimate | None:
        """The mean and t interval of a vector; None for an empty vector."""
        if len(values) == 0:
            return None
        mean, low, high = (float(x) for x in t_interval(values))
        return cls(mean, None if math.isnan(low) else low, None if math.isnan(high) else high)


@dataclass(frozen=True)
class Scores:
    """Test mIoU of every final run, [methods, pairs, seeds]; nan if there is none.

    `imputed` marks failed runs that got the score of the student alone with the same seed. `resampled`,
    [methods, pairs, seeds, draws], is the mIoU in each bootstrap draw of the test images; all runs share the draws.
    """

    methods: tuple[str, ...]
    pairs: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str | None
    miou: Reals
    imputed: Flags
    resampled: Reals

    def index(self, method: str) -> int:
        """Position of a method on the first axis."""
        return self.methods.index(method)

    @property
    def ranked_pairs(self) -> list[int]:
        """Positions of the pairs on which the student alone has a score; without it there is no gain."""
        if self.baseline is None:
            return list(range(len(self.pairs)))
        scored = ~np.isnan(self.miou[self.index(self.baseline)])
        return [int(p) for p in np.flatnonzero(scored.any(axis=1))]

    def complete_seeds(self, *methods: str) -> list[int]:
        """Positions of the seeds with which all `methods` have a score on every ranked pair."""
        pairs = self.ranked_pairs
        if not pairs:
            return []
        scored = ~np.isnan(self.miou[[self.index(m) for m in methods]][:, pairs])
        return [int(s) for s in np.flatnonzero(scored.all(axis=(0, 1)))]

    def per_seed(self, method: str, seeds: Sequence[int]) -> Reals:
        """Mean over the ranked pairs, one value per seed."""
        return np.asarray(self.miou[self.index(method)][np.ix_(self.ranked_pairs, seeds)].mean(axis=0))

    def per_draw(self, method: str, seeds: Sequence[int]) -> Reals:
        """Mean over ranked pairs and seeds in each bootstrap draw, [draws]; nan without counts."""
        return np.asarray(
            self.resampled[self.index(method)][np.ix_(self.ranked_pairs, seeds)].mean(axis=(0, 1))
        )


@dataclass(frozen=True)
class Standing:
    """A method's result over the ranked pairs and the seeds that are complete on them."""

    method: str
    miou: Estimate
    gain: Estimate | None
    gain_over_images: tuple[float, float] | None
    better_than_student: float | None
    rank: tuple[int, int]
    seeds: int


@dataclass(frozen=True)
class Comparison:
    """Standings by method, best first, and the Holm-adjusted p value of the difference of every two methods."""

    standings: tuple[Standing, ...]
    probabilities: Mapping[tuple[str, str], float]
    surely_better: frozenset[tuple[str, str]]


def score_table(
    runs: Mapping[tuple[str, str, int], TrialRecord], baseline: str | None, counts: Mapping[str, ImageCounts]
) -> Scores:
    """The scores of final runs by (method, pair, seed); a failed run gets the baseline's score with its seed."""
    methods, pairs = tuple(sorted({key[0] for key in runs})), tuple(sorted({key[1] for key in runs}))
    seeds = tuple(sorted({key[2] for key in runs}))
    shape = len(methods), len(pairs), len(seeds)
    images = _common_images([counts[run.trial_id] for run in runs.values() if run.trial_id in counts])
    draws = image_draws(len(images), key="test pictures") if len(images) else np.zeros((1, 0), dtype=np.int64)
    miou, imputed = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    resampled = np.full((*shape, len(draws)), np.nan)
    for (method, pair, seed), run in runs.items():
        place = methods.index(method), pairs.index(pair), seeds.index(seed)
        score = final_score(run, counts)
        if score is None:
            continue
        miou[place] = score
        found = counts.get(run.trial_id)
        if found is not None and np.array_equal(found.images, images):
            resampled[place] = resampled_mean_iou(draws, found.matrix, found.classes)
    if baseline in methods:
        student = methods.index(baseline)
        for (method, pair, seed), run in runs.items():
            place = methods.index(method), pairs.index(pair), seeds.index(seed)
            if (
                final_score(run, counts) is None
                and run.status != "ok"
                and not np.isnan(miou[student][place[1:]])
            ):
                miou[place], resampled[place] = miou[student][place[1:]], resampled[student][place[1:]]
                imputed[place] = True
    return Scores(methods, pairs, seeds, baseline if baseline in methods else None, miou, imputed, resampled)


def final_score(run: TrialRecord, counts: Mapping[str, ImageCounts]) -> float | None:
    """Test mIoU of a finished run, from its counts if there are any; None for a failed run."""
    if run.status != "ok":
        return None
    if run.trial_id in counts:
        return counts[run.trial_id].miou()
    return run.test_miou


def compare(scores: Scores) -> Comparison:
    """Gains, probabilities and rank intervals of the methods that have a complete seed.

    A method is surely better than another if both hold: the paired t test over seeds, Holm-adjusted over all pairs of
    methods, gives p < 0.05; and the bootstrap interval over test images, if there are counts, is above 0.
    """
    ranked = [method for method in scores.methods if scores.complete_seeds(method)]
    probabilities: dict[tuple[str, str], float] = {}
    above: set[tuple[str, str]] = set()
    couples = list(itertools.combinations(ranked, 2))
    raw = []
    for one, other in couples:
        seeds = scores.complete_seeds(one, other)
        difference = scores.per_seed(one, seeds) - scores.per_seed(other, seeds)
        raw.append(float(t_probability(difference, two_sided=True)))
        if len(seeds):
            better, worse = (one, other) if difference.mean() > 0 else (other, one)
            low, _ = percentile_interval(scores.per_draw(better, seeds) - scores.per_draw(worse, seeds))
            if difference.mean() != 0 and (math.isnan(low) or low > 0):
                above.add((better, worse))
    for couple, probability in zip(couples, holm(np.array(raw)), strict=True):
        if not math.isnan(probability):
            probabilities[couple] = probabilities[couple[::-1]] = float(probability)
    sure = frozenset(couple for couple in above if probabilities.get(couple, 1.0) < SIGNIFICANCE)
    flags = np.array([[(one, other) in sure for other in ranked] for one in ranked], dtype=bool)
    ranks = dict(zip(ranked, rank_intervals(flags.reshape(len(ranked), len(ranked))), strict=True))
    better_than_student = _better_than_student(scores, ranked)
    standings = [
        _standing(scores, method, ranks[method], better_than_student.get(method)) for method in ranked
    ]
    standings.sort(key=lambda s: (-s.gain.mean if s.gain else 0.0, -s.miou.mean, s.method))
    return Comparison(tuple(standings), probabilities, sure)


def pair_gain(scores: Scores, method: str, pair: str) -> Estimate | None:
    """Gain over the student alone on one pair, over the seeds that both have."""
    if scores.baseline is None:
        return None
    place = scores.pairs.index(pair)
    difference = scores.miou[scores.index(method), place] - scores.miou[scores.index(scores.baseline), place]
    return Estimate.of(difference[~np.isnan(difference)])


def pair_miou(scores: Scores, method: str, pair: str) -> Estimate | None:
    """mIoU on one pair, over the seeds that the method has."""
    values = scores.miou[scores.index(method), scores.pairs.index(pair)]
    return Estimate.of(values[~np.isnan(values)])


def _standing(scores: Scores, method: str, rank: tuple[int, int], probability: float | None) -> Standing:
    seeds = scores.complete_seeds(method)
    miou = Estimate.of(scores.per_seed(method, seeds))
    assert miou is not None  # only methods with a complete seed have a standing
    gain, over_images = None, None
    if method == scores.baseline:
        gain = Estimate(0.0)
    elif scores.baseline is not None:
        shared = scores.complete_seeds(method, scores.baseline)
        gain = Estimate.of(scores.per_seed(method, shared) - scores.per_seed(scores.baseline, shared))
        if shared:
            draws = scores.per_draw(method, shared) - scores.per_draw(scores.baseline, shared)
            low, high = percentile_interval(draws)
            over_images = None if math.isnan(low) else (low, high)
    return Standing(method, miou, gain, over_images, probability, rank, len(seeds))


def _better_than_student(scores: Scores, ranked: Sequence[str]) -> dict[str, float]:
    """Holm-adjusted one-sided p values of the hypothesis "better than the student alone", by method."""
    if scores.baseline is None or scores.baseline not in ranked:
        return {}
    others = [method for method in ranked if method != scores.baseline]
    raw = []
    for method in others:
        seeds = scores.complete_seeds(method, scores.baseline)
        difference = scores.per_seed(method, seeds) - scores.per_seed(scores.baseline, seeds)
        raw.append(float(t_probability(difference, two_sided=False)))
    adjusted = holm(np.array(raw))
    return {method: float(p) for method, p in zip(others, adjusted, strict=True) if not math.isnan(p)}


def _common_images(found: Sequence[ImageCounts]) -> Integers:
    """The images that most runs were scored on; runs with other images are not resampled."""
    sets = Counter(tuple(counts.images.tolist()) for counts in found)
    most = max(sets, key=lambda images: (sets[images], len(images), images), default=())
    return np.array(most, dtype=np.int64)
