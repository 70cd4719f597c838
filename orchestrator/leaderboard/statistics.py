"""Estimators and tests as pure functions on arrays: the last axis is the sample, leading axes are independent problems.

A statistic that cannot be computed, such as an interval from one seed, is nan.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

Reals = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

CONFIDENCE = 0.95
DRAWS = 1000


def t_interval(values: Reals, confidence: float = CONFIDENCE) -> tuple[Reals, Reals, Reals]:
    """Mean and two-sided Student t interval over the last axis; the ends are nan for fewer than two values.

    On seed-paired differences this is the paired t interval, which is exact for normal differences.
    """
    values = np.asarray(values, dtype=np.float64)
    count = values.shape[-1]
    mean = values.mean(axis=-1) if count else np.full(values.shape[:-1], np.nan)
    if count < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = special.stdtrit(count - 1, 0.5 + confidence / 2) * _standard_error(values)
    return mean, mean - half, mean + half


def t_probability(differences: Reals, *, two_sided: bool) -> Reals:
    """p value of the paired t test over the last axis: mean above 0, or (two-sided) different from 0.

    nan for fewer than two differences. For differences that are all equal, p is 0 or 1, by their sign.
    """
    differences = np.asarray(differences, dtype=np.float64)
    count = differences.shape[-1]
    if count < 2:
        return np.full(differences.shape[:-1], np.nan)
    mean, error = differences.mean(axis=-1), _standard_error(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(error > 0, mean / error, np.where(mean == 0, 0.0, np.copysign(np.inf, mean)))
    if two_sided:
        equal = (error == 0) & (mean == 0)
        return np.asarray(np.where(equal, 1.0, 2 * special.stdtr(count - 1, -np.abs(statistic))))
    equal = (error == 0) & (mean <= 0)
    return np.asarray(np.where(equal, 1.0, special.stdtr(count - 1, -statistic)))


def holm(probabilities: Reals) -> Reals:
    """Holm's step-down adjustment over the last axis; nan entries stay nan and do not count as tests.

    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6, 1979.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    tests = np.sum(~np.isnan(probabilities), axis=-1, keepdims=True)
    order = np.argsort(probabilities, axis=-1, kind="stable")  # nan sorts last
    factors = tests - np.arange(probabilities.shape[-1])
    sorted_ = np.take_along_axis(probabilities, order, axis=-1)
    # The factors of the nan entries at the end are not positive; nan times any factor is nan.
    stepped = np.minimum(np.maximum.accumulate(sorted_ * factors, axis=-1), 1.0)
    adjusted = np.empty_like(probabilities)
    np.put_along_axis(adjusted, order, stepped, axis=-1)
    return adjusted


def mean_iou(tp: NDArray[Any], fp: NDArray[Any], fn: NDArray[Any]) -> Reals:
    """mIoU from counts summed over images, [..., K] → [...]: the mean over the classes that labels have.

    nan if no label is valid.
    """
    iou = class_iou(tp, fp, fn)
    present = ~np.isnan(iou)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(present, iou, 0.0).sum(axis=-1) / present.sum(axis=-1))


def class_iou(tp: NDArray[Any], fp: NDArray[Any], fn: NDArray[Any]) -> Reals:
    """IoU of each class from summed counts; nan for a class that no label has, whatever was predicted.

    So all methods have the same classes in their mean.
    """
    tp, fp, fn = (np.asarray(counts, np.float64) for counts in (tp, fp, fn))
    labelled = tp + fn
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(labelled > 0, tp / (labelled + fp), np.nan))


def image_draws(images: int, key: str, draws: int = DRAWS) -> Integers:
    """How often each of `images` images is drawn in each of `draws` bootstrap resamples: [draws, images].

    `key` is the seed, so that equal input gives equal intervals. Use the same draws for all methods.
    """
    seed = int.from_bytes(hashlib.sha256(f"{key}|{images}|{draws}".encode()).digest()[:8], "big")
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=draws).astype(np.int64)


def resampled_mean_iou(draws: Integers, counts: sparse.csr_array, classes: int) -> Reals:
    """mIoU of each resample: `draws` [D, N] and `counts` [N, 3·classes] (all tp, then fp, then fn) → [D]."""
    sums = (counts.T.tocsr() @ draws.T.astype(np.float64)).T  # whole numbers below 2^53: exact
    tp, fp, fn = sums[:, :classes], sums[:, classes : 2 * classes], sums[:, 2 * classes :]
    return mean_iou(tp, fp, fn)


def percentile_interval(resampled: Reals, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The percentile bootstrap interval of a [D] vector; nan if any entry is nan."""
    low, high = np.quantile(resampled, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def rank_intervals(surely_better: Flags) -> list[tuple[int, int]]:
    """Rank intervals of K methods from [K, K] flags "row is surely better than column".

    From 1 + how many are surely better than it, to K − how many are surely worse.
    """
    count = len(surely_better)
    return [(1 + int(surely_better[:, k].sum()), count - int(surely_better[k].sum())) for k in range(count)]


def expected_best(values: Sequence[float]) -> list[float]:
    """Expected maximum of n draws without replacement from N `values`, for n = 1 … N.

    Σ_i C(i−1, n−1) / C(N, n) · v_(i) over the sorted values: unbiased for the best of n trials of a search
    whose trials do not depend on each other. The largest value weighs n / N, and each next one (i − n) / (i − 1) of
    the one before it, i from N down.
    """
    total = len(values)
    largest_first = np.sort(np.asarray(values, dtype=np.float64))[::-1]
    before = np.arange(total - 1, 0, -1)
    found = []
    for n in range(1, total + 1):
        weights = n / total * np.cumprod([1.0, *np.maximum(before - n + 1, 0) / before])
        found.append(math.fsum(weights * largest_first))
    return found


def share_of_gap(gain: float, gap: float) -> float:
    """The gain as a share of the teacher's lead over the student; nan if the teacher does not lead."""
    return gain / gap if gap > 0 else math.nan


def _standard_error(values: Reals) -> Reals:
    # Values that differ only by rounding count as equal; otherwise the error would be far too small.
    spread = values.max(axis=-1) - values.min(axis=-1)
    error = values.std(axis=-1, ddof=1) / math.sqrt(values.shape[-1])
    return np.asarray(np.where(spread <= 1e-12, 0.0, error))
