"""The test scores of final runs by method, pair and seed, and means with intervals over seeds or searches."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.leaderboard.run_records import ImageCounts, TrialRecord
from orchestrator.leaderboard.statistics import (
    Flags,
    Integers,
    Reals,
    image_draws,
    resampled_mean_iou,
    t_interval,
)


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
        return cls.with_ends(*(float(x) for x in t_interval(values)))

    @classmethod
    def with_ends(cls, mean: float, low: float, high: float) -> Estimate:
        """The mean with an interval; ends that are nan become None."""
        return cls(mean, None if math.isnan(low) else low, None if math.isnan(high) else high)


@dataclass(frozen=True)
class Scores:
    """Test mIoU of every final run, [methods, pairs, seeds]; nan if there is none.

    `repeats` has, for each seed, the number of the search whose configuration was trained with it. `imputed` marks failed runs that got the score of the student alone with the same seed. `resampled`,
    [methods, pairs, seeds, draws], is the mIoU in each bootstrap draw of the test images; all runs share the draws.
    """

    methods: tuple[str, ...]
    pairs: tuple[str, ...]
    seeds: tuple[int, ...]
    repeats: tuple[int, ...]
    baseline: str | None
    miou: Reals
    imputed: Flags
    resampled: Reals

    def index(self, method: str) -> int:
        """Position of a method on the first axis."""
        return self.methods.index(method)

    @functools.cached_property
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

    @functools.cached_property
    def searches(self) -> int:
        """Number of searches of each study that have a final run."""
        return len(set(self.repeats))

    def replicates(self, values: Reals, seeds: Sequence[int]) -> Reals:
        """The independent values that an interval is computed from, out of one value per seed.

        With one search these are the values themselves: seeds vary, the found configuration does not. With several
        searches it is the mean over the seeds of each search, so that the luck of a search is in the interval.
        """
        if self.searches < 2:
            return values
        repeats = np.array([self.repeats[seed] for seed in seeds], dtype=np.int64)
        return np.array([values[repeats == repeat].mean() for repeat in np.unique(repeats)])

    def per_replicate(self, method: str, seeds: Sequence[int]) -> Reals:
        """Mean over the ranked pairs, one value for each of the `replicates`."""
        return self.replicates(
            self.miou[self.index(method)][np.ix_(self.ranked_pairs, seeds)].mean(axis=0), seeds
        )

    def on(self, pair: str) -> Scores:
        """The scores on one pair alone."""
        place = [self.pairs.index(pair)]
        return replace(
            self,
            pairs=(pair,),
            miou=self.miou[:, place],
            imputed=self.imputed[:, place],
            resampled=self.resampled[:, place],
        )

    def per_draw(self, method: str, seeds: Sequence[int]) -> Reals:
        """Mean over ranked pairs and seeds in each bootstrap draw, [draws]; nan without counts."""
        return np.asarray(
            self.resampled[self.index(method)][np.ix_(self.ranked_pairs, seeds)].mean(axis=(0, 1))
        )


def score_table(
    runs: Mapping[tuple[str, str, int], TrialRecord], baseline: str | None, counts: Mapping[str, ImageCounts]
) -> Scores:
    """The scores of final runs by (method, pair, seed); a failed run gets the baseline's score with its seed."""
    methods, pairs = tuple(sorted({key[0] for key in runs})), tuple(sorted({key[1] for key in runs}))
    repeats = dict(sorted((key[2], run.repeat) for key, run in runs.items()))
    seeds = tuple(repeats)
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
    known = baseline if baseline in methods else None
    return Scores(methods, pairs, seeds, tuple(repeats.values()), known, miou, imputed, resampled)


def final_score(run: TrialRecord, counts: Mapping[str, ImageCounts]) -> float | None:
    """Test mIoU of a finished run, from its counts if there are any; None for a failed run."""
    if run.status != "ok":
        return None
    if run.trial_id in counts:
        return counts[run.trial_id].miou()
    return run.test_miou


def pair_miou(scores: Scores, method: str, pair: str) -> Estimate | None:
    """mIoU on one pair, over the seeds that the method has."""
    values = scores.miou[scores.index(method), scores.pairs.index(pair)]
    seeds = np.flatnonzero(~np.isnan(values))
    return Estimate.of(scores.replicates(values[seeds], seeds.tolist()))


def _common_images(found: Sequence[ImageCounts]) -> Integers:
    """The images that most runs were scored on; runs with other images are not resampled."""
    sets = Counter(tuple(counts.images.tolist()) for counts in found)
    most = max(sets, key=lambda images: (sets[images], len(images), images), default=())
    return np.array(most, dtype=np.int64)
