"""The replay of selection protocols: what a protocol costs, what it sees, and what its regret is."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest

from tests import ROOT


@pytest.fixture(scope="module")
def selection() -> ModuleType:
    spec = importlib.util.spec_from_file_location("selection", ROOT / "benchmarks" / "selection.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["selection"] = module
    spec.loader.exec_module(module)
    return module


def table(noise: float, number: int = 0) -> np.ndarray:
    """16 configurations one point apart, 8 seeds, 4 quarters."""
    generator = np.random.default_rng(number)
    return np.arange(16.0)[:, None, None] + noise * generator.normal(size=(16, 8, 4))


def test_without_noise_every_protocol_chooses_the_best_configuration(selection: ModuleType) -> None:
    whole = [protocol for protocol in selection.PROTOCOLS.values() if protocol.trials == len(table(0))]
    assert len(whole) > 10
    for protocol in whole:
        assert selection.replayed_regret(table(0), protocol, 20) == 0
        assert selection.resampled_regret(table(0), protocol, 20)[0] == 0


def test_the_cost_is_counted_in_whole_trainings_with_halving(selection: ModuleType) -> None:
    costs = {title: selection.resampled_regret(table(1), p, 5)[2] for title, p in selection.PROTOCOLS.items()}
    # Two brackets of 8: 8 × ¼ + 4 × ¼ + 2 × ½ each.
    assert costs["one seed"] == costs["one seed a bracket"] == 8
    assert costs["2 seeds"] == 16
    assert costs["2 finalists, 2 fresh seeds"] == 8 + 4
    assert costs["2 finalists, 2 fresh seeds, halved at a half"] == 8 + 2 * (2 / 2 + 1 / 2)
    assert costs["one seed, a quarter of 16 goes on at a half"] == 16 / 2 + 4 / 2


def test_a_choice_is_valued_by_seeds_that_it_did_not_use(selection: ModuleType) -> None:
    scores = np.random.default_rng(5).normal(size=(16, 8, 4))
    for title, protocol in selection.PROTOCOLS.items():
        choices = [protocol.choose(scores, np.random.default_rng(n)) for n in range(20)]
        seeds_of_search = protocol.seeds * (2 if "a bracket" in title else 1)
        assert {len(choice.seeds) for choice in choices} == {seeds_of_search + protocol.fresh}


def test_the_regret_of_a_choice_does_not_count_the_seed_that_made_it_look_good(selection: ModuleType) -> None:
    scores = np.ones((2, 8, 4))
    scores[0] = 0.0
    scores[0, 0] = 4.0  # configuration 0 is good with seed 0 only
    protocol = selection.Protocol(bracket=2, rungs=())
    choices = [protocol.choose(scores, np.random.default_rng(n)) for n in range(40)]
    assert all(choice.configuration == (0 if choice.seeds == {0} else 1) for choice in choices)
    # With seed 0, one time in eight, the worse configuration is chosen: by the other seeds it is worth a point less.
    assert selection.replayed_regret(scores, protocol, 4000) == pytest.approx(1 / 8, abs=0.02)


def test_more_fresh_seeds_choose_better_among_the_same_finalists(selection: ModuleType) -> None:
    few, many = (
        sum(
            selection.replayed_regret(table(4, n), selection.Protocol(finalists=4, fresh=fresh), 50)
            for n in range(20)
        )
        for fresh in (1, 4)
    )
    assert many < 0.9 * few


def test_configurations_of_a_resampled_table_spread_as_the_true_ones_do_and_trainings_as_in_the_table(
    selection: ModuleType,
) -> None:
    """The means of few seeds spread by their noise too, which would make a search look better than it is."""
    generator = np.random.default_rng(0)
    spreads, noises = [], []
    for _ in range(200):
        scores = 2 * generator.normal(size=(16, 1, 1)) + 3 * generator.normal(size=(16, 4, 1))
        truth, drawn = selection.resampled(np.repeat(scores, 4, axis=2), generator)
        spreads.append(truth.var(ddof=1))
        noises.append((drawn[:, :, -1] - truth[:, None]).var())
    assert np.mean(spreads) == pytest.approx(2**2, rel=0.15)
    assert np.mean(noises) == pytest.approx(3**2, rel=0.15)


def test_the_spread_of_configurations_is_told_from_that_of_trainings_and_of_seeds(
    selection: ModuleType,
) -> None:
    """An effect that a seed has on all configurations is in neither."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(100):
        scores = (
            2 * generator.normal(size=(16, 1, 1))
            + 9 * generator.normal(size=(1, 4, 1))
            + generator.normal(size=(16, 4, 1))
        )
        line = selection.spread_table({"a study": scores})[-1]
        found.append([float(cell) ** 2 for cell in line.split("|")[3:5]])
    assert np.mean(found, axis=0) == pytest.approx([2**2, 1**2], rel=0.1)
