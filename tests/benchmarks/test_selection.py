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
    for protocol in selection.PROTOCOLS.values():
        assert selection.regret(table(0), protocol, 20)[0] == 0


def test_the_cost_is_counted_in_whole_trainings_with_halving(selection: ModuleType) -> None:
    costs = {title: selection.regret(table(1), p, 5)[1] for title, p in selection.PROTOCOLS.items()}
    # Two brackets of 8: 8 × ¼ + 4 × ¼ + 2 × ½ each.
    assert costs["one seed"] == costs["one seed a bracket"] == 8
    assert costs["every configuration with two seeds"] == 16
    assert costs["2 finalists, 2 fresh seeds"] == 8 + 4


def test_a_choice_is_valued_by_seeds_that_it_did_not_use(selection: ModuleType) -> None:
    """With pure noise every configuration is worth the same, so a regret below zero would be a seed seen twice."""
    generator = np.random.default_rng(5)
    scores = generator.normal(size=(16, 8, 4))
    for title, protocol in selection.PROTOCOLS.items():
        choices = [protocol(scores, np.random.default_rng(n)) for n in range(50)]
        expected = 2 if "two" in title or "a bracket" in title else 1
        if "finalists" in title:
            expected += int(title.split(", ")[1][0])
        assert {len(choice.seeds) for choice in choices} == {expected}


def test_the_regret_of_a_choice_does_not_count_the_seed_that_made_it_look_good(selection: ModuleType) -> None:
    scores = np.zeros((2, 8, 4))
    scores[0, 0], scores[1] = 4.0, 1.0  # configuration 0 is good with seed 0 only
    regret, _ = selection.regret(scores, lambda *_: selection.Choice(0, frozenset({0}), 1.0), 1)
    assert regret == 1.0


def test_more_fresh_seeds_choose_better_among_the_same_finalists(selection: ModuleType) -> None:
    few, many = (
        sum(
            selection.regret(table(4, n), selection.finalists(4, fresh, with_search_score=False), 50)[0]
            for n in range(20)
        )
        for fresh in (1, 4)
    )
    assert many < 0.9 * few
