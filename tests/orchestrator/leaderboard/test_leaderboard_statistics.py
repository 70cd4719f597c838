from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from orchestrator.leaderboard.statistics import (
    detectable_difference,
    expected_best,
    holm,
    image_draws,
    mean_iou,
    needed_count,
    percentile_interval,
    rank_intervals,
    ratio_interval,
    resampled_mean_iou,
    t_interval,
    t_probability,
)

samples = st.lists(st.floats(-1, 1).map(lambda x: round(x, 6)), min_size=2, max_size=8)


@given(values=samples)
def test_the_t_interval_is_scipy_s(values: list[float]) -> None:
    array = np.array(values)
    if np.ptp(array) < 1e-6:
        return
    expected = scipy.stats.ttest_1samp(array, 0).confidence_interval(0.95)
    mean, low, high = t_interval(array)
    assert mean == pytest.approx(array.mean())
    assert (low, high) == pytest.approx((expected.low, expected.high))


@given(values=samples)
def test_the_paired_t_test_is_scipy_s(values: list[float]) -> None:
    array = np.array(values)
    if np.ptp(array) < 1e-6:
        return
    assert t_probability(array) == pytest.approx(scipy.stats.ttest_1samp(array, 0).pvalue, abs=1e-12)


@pytest.mark.parametrize("values", [[], [0.3]])
def test_fewer_than_two_values_give_no_interval_and_no_probability(values: list[float]) -> None:
    _, low, high = t_interval(np.array(values))
    assert np.isnan([low, high, t_probability(np.array(values))]).all()


def test_equal_differences_are_certain_and_equal_scores_are_no_difference() -> None:
    for value, expected in ((0.1, 0.0), (-0.1, 0.0), (0.0, 1.0)):
        assert t_probability(np.full(3, value)) == expected


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(values: list[float]) -> None:
    """By the closure principle: the largest Bonferroni p over all subsets that hold the hypothesis."""
    adjusted = holm(np.array(values))
    for asked in range(len(values)):
        subsets = (
            subset
            for size in range(1, len(values) + 1)
            for subset in itertools.combinations(range(len(values)), size)
            if asked in subset
        )
        closed = max(min(1.0, len(subset) * min(values[i] for i in subset)) for subset in subsets)
        assert adjusted[asked] == pytest.approx(closed)


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=5), seed=st.integers(0, 100))
def test_weighted_holm_is_the_closed_test_of_weighted_bonferroni(values: list[float], seed: int) -> None:
    weights = np.random.default_rng(seed).integers(1, 9, len(values)).astype(float)
    adjusted = holm(np.array(values), weights)
    for asked in range(len(values)):
        subsets = (
            list(subset)
            for size in range(1, len(values) + 1)
            for subset in itertools.combinations(range(len(values)), size)
            if asked in subset
        )
        closed = max(
            min(1.0, weights[subset].sum() * min(values[i] / weights[i] for i in subset))
            for subset in subsets
        )
        assert adjusted[asked] == pytest.approx(closed)


def test_holm_does_not_count_tests_that_could_not_be_made() -> None:
    with_gap = holm(np.array([0.01, np.nan, 0.03]))
    assert np.isnan(with_gap[1])
    assert with_gap[[0, 2]].tolist() == holm(np.array([0.01, 0.03])).tolist()
    weighted = holm(np.array([0.01, np.nan, 0.03]), np.array([2.0, 5.0, 1.0]))
    assert weighted[[0, 2]].tolist() == holm(np.array([0.01, 0.03]), np.array([2.0, 1.0])).tolist()


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30)
def test_miou_from_counts_is_miou_from_pixels_over_the_classes_that_labels_have(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels, predicted = generator.integers(0, 4, 30), generator.integers(0, 5, 30)
    found = np.array([[((predicted == k) & (labels == k)).sum(), ((predicted == k) & (labels != k)).sum(),
                       ((predicted != k) & (labels == k)).sum()] for k in range(6)])  # fmt: skip
    pixels = {k: (set(np.flatnonzero(labels == k)), set(np.flatnonzero(predicted == k))) for k in range(6)}
    expected = np.mean([len(a & b) / len(a | b) for a, b in pixels.values() if a])
    assert mean_iou(*found.T) == pytest.approx(expected)


def test_miou_of_nothing_is_nan() -> None:
    assert math.isnan(float(mean_iou(*np.zeros((3, 5)))))


def test_a_resample_is_the_miou_of_the_drawn_pictures_laid_side_by_side() -> None:
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 50, (7, 3, 4))  # picture, tp/fp/fn, class
    counts[:, :, 3] = 0
    counts[0, :, 3] = [1, 2, 3]  # a class that some resamples lack
    draws = image_draws(7, "key", draws=200)
    found = resampled_mean_iou(draws, sparse.csr_array(counts.reshape(7, 12).astype(float)), 4)
    for draw, value in zip(draws, found, strict=True):
        pictures = counts[np.repeat(np.arange(7), draw)].sum(axis=0)
        iou = [tp / (tp + fp + fn) for tp, fp, fn in pictures.T if tp + fn]
        assert value == pytest.approx(np.mean(iou))
    assert (draws.sum(axis=1) == 7).all()
    assert (draws[:, 0] == 0).any()


def test_draws_depend_on_their_key_and_on_nothing_else() -> None:
    assert np.array_equal(image_draws(9, "a"), image_draws(9, "a"))
    assert not np.array_equal(image_draws(9, "a"), image_draws(9, "b"))


def test_the_bootstrap_interval_of_a_mean_is_scipy_s() -> None:
    values = np.random.default_rng(3).normal(size=60)
    resampled = image_draws(60, "x", draws=20000) @ values / 60
    expected = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20000, rng=1)
    assert percentile_interval(resampled) == pytest.approx(tuple(expected.confidence_interval), abs=0.01)


def test_rank_intervals_count_who_is_surely_better_and_who_is_surely_worse() -> None:
    better = np.zeros((4, 4), dtype=bool)
    better[0, 2] = better[0, 3] = better[1, 3] = True
    assert rank_intervals(better) == [(1, 2), (1, 3), (2, 4), (3, 4)]
    assert rank_intervals(np.zeros((3, 3), dtype=bool)) == [(1, 3)] * 3
    assert rank_intervals(np.zeros((0, 0), dtype=bool)) == []


@given(values=st.lists(st.floats(-1, 1), min_size=1, max_size=7))
def test_expected_best_of_n_is_the_mean_over_all_subsets(values: list[float]) -> None:
    for n, found in enumerate(expected_best(values), start=1):
        best = [max(subset) for subset in itertools.combinations(values, n)]
        assert found == pytest.approx(np.mean(best), abs=1e-12)


@given(x=samples, seed=st.integers(0, 100))
def test_the_interval_of_a_ratio_has_the_ratios_that_a_paired_t_test_does_not_reject(
    x: list[float], seed: int
) -> None:
    gains, gaps = np.array(x), 5 + np.random.default_rng(seed).normal(size=len(x))
    ratio, low, high = ratio_interval(gains, gaps)
    assert ratio == pytest.approx(gains.mean() / gaps.mean())
    bounded = t_probability(gaps) < 0.05
    assert math.isnan(low) != bounded
    if bounded and high - low > 1e-6:
        assert t_probability(gains - low * gaps) == pytest.approx(0.05, abs=1e-6)
        assert t_probability(gains - high * gaps) == pytest.approx(0.05, abs=1e-6)
        assert t_probability(gains - (low + high) / 2 * gaps) > 0.05


def test_a_share_of_a_gap_that_is_none_is_not_a_number() -> None:
    assert ratio_interval(np.array([0.02]), np.array([0.08]))[0] == 0.25
    for gap in (0.0, -0.01):
        assert np.isnan(ratio_interval(np.full(3, 0.02), np.full(3, gap))).all()
    assert np.isnan(ratio_interval(np.zeros(0), np.zeros(0))).all()


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_the_detectable_difference_is_found_by_the_t_test_in_80_of_100_samples(count: int) -> None:
    generator, deviation = np.random.default_rng(count), 1.7
    difference = detectable_difference(deviation, count)
    samples_ = difference + deviation * generator.normal(size=(40_000, count))
    assert (t_probability(samples_) < 0.05).mean() == pytest.approx(0.8, abs=0.01)


@given(difference=st.floats(0.05, 20), deviation=st.floats(0.5, 3))
@settings(max_examples=30)
def test_the_needed_count_is_the_smallest_that_finds_the_difference(
    difference: float, deviation: float
) -> None:
    count = needed_count(difference, deviation)
    assert detectable_difference(deviation, count) <= difference * (1 + 1e-9)
    assert count == 2 or detectable_difference(deviation, count - 1) > difference


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_paired_t_interval_covers_95_of_100_gains(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    student = generator.normal(0.6, 0.05, (20000, seeds))
    method = student + 0.01 + generator.normal(0, 0.01, (20000, seeds))
    _, low, high = t_interval(method - student)
    assert ((low <= 0.01) & (high >= 0.01)).mean() == pytest.approx(0.95, abs=0.006)


def _pictures(generator: np.random.Generator, count: int) -> np.ndarray:
    """Counts of a method and of the student on the same pictures, [2, pictures, 3 kinds × 3 classes]."""
    pixels = generator.integers(50, 1500, (count, 3))
    quality = (
        0.6 + 0.15 * generator.standard_normal((count, 1)) + 0.05 * generator.standard_normal((count, 3))
    )
    lift = 0.02 + 0.05 * generator.standard_normal((count, 3))
    tp = np.round(pixels * np.clip([quality + lift, quality], 0.01, 0.99))
    missed = pixels - tp
    return np.concatenate([tp, np.roll(missed, 1, axis=2), missed], axis=2)


@pytest.mark.slow
def test_the_interval_over_pictures_covers_the_gain_on_all_pictures_on_95_of_100_boards() -> None:
    generator = np.random.default_rng(2)
    all_pictures = _pictures(generator, 400_000).sum(axis=1)
    truth = np.subtract(*(float(mean_iou(*counts.reshape(3, 3))) for counts in all_pictures))
    boards, pictures = 800, 150
    draws = image_draws(pictures, key="coverage")
    held = 0
    for _ in range(boards):
        method, student = (
            resampled_mean_iou(draws, sparse.csr_array(counts), 3)
            for counts in _pictures(generator, pictures)
        )
        low, high = percentile_interval(method - student)
        held += low <= truth <= high
    assert 0.93 <= held / boards <= 0.97


@pytest.mark.parametrize("steps", [0.0, 1.0, 4.0])
def test_all_rank_intervals_of_a_board_hold_the_true_ranks_on_95_of_100_boards(steps: float) -> None:
    """Methods 1, 2 and 3 truly tie; 4 and 5 lie `steps` noise widths below."""
    generator = np.random.default_rng(11)
    boards, seeds = 1000, 5
    truth = np.array([0.0, 0.0, 0.0, -steps, -2 * steps])
    scores = truth[None, :, None] + generator.normal(size=(boards, 5, seeds))
    couples = list(itertools.combinations(range(5), 2))
    differences = np.stack([scores[:, a] - scores[:, b] for a, b in couples], axis=1)
    sure = holm(t_probability(differences)) < 0.05
    held = 0
    for board in range(boards):
        better = np.zeros((5, 5), dtype=bool)
        for couple, (a, b) in enumerate(couples):
            if sure[board, couple]:
                a, b = (a, b) if differences[board, couple].mean() > 0 else (b, a)
                better[a, b] = True
        ranks = rank_intervals(better)
        first = [1 + int((truth > truth[k]).sum()) for k in range(5)]
        last = [5 - int((truth < truth[k]).sum()) for k in range(5)]
        held += all(
            low <= f and last[k] <= high for k, (f, (low, high)) in enumerate(zip(first, ranks, strict=True))
        )
    assert held / boards >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / boards)


def test_the_facts_told_under_how_to_read_are_so() -> None:
    generator = np.random.default_rng(5)
    values = generator.normal(size=(4000, 3))
    resamples = np.array(list(itertools.product(range(3), repeat=3)))  # all 27, so no noise of drawing
    means = values[:, resamples].mean(axis=2)
    low, high = np.quantile(means, [0.025, 0.975], axis=1, method="inverted_cdf")
    assert ((low <= 0) & (high >= 0)).mean() == pytest.approx(0.75, abs=0.02)
    assert scipy.stats.wilcoxon(np.arange(1.0, 6.0)).pvalue == pytest.approx(0.0625)
    runs = generator.normal(size=(20000, 21))
    assert (runs[:, :20].max(axis=1) > runs[:, 20]).mean() == pytest.approx(0.95, abs=0.01)
