"""What a board's claims are worth where the truth is known; at length: `benchmarks/simulate_boards.py`."""

from __future__ import annotations

import importlib.util
import math
import sys
from types import ModuleType

import pytest

from tests import ROOT

BOARDS = 200


def at_most(rate: float) -> float:
    """The share of `BOARDS` boards that an event of that rate stays below, but for 1 of 700 times."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / BOARDS)


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    """The script that simulates boards."""
    name = "simulate_boards"
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("configuration_sd", [0.0, 1.0, 2.0])
def test_with_repeated_searches_at_most_5_of_100_boards_make_a_false_claim_about_a_method(
    simulation: ModuleType, configuration_sd: float
) -> None:
    designs = [
        simulation.Design(lifts, configuration_sd, searches=3)
        for lifts in (simulation.EQUAL, simulation.UNEQUAL)
    ]
    _, methods = simulation.rates(designs, BOARDS, seed=3)
    assert methods.false_claims <= at_most(0.05)
    assert 0.93 <= methods.coverage <= 0.97


@pytest.mark.slow
def test_with_one_search_claims_hold_for_the_found_configurations_and_not_for_the_methods(
    simulation: ModuleType,
) -> None:
    configurations, methods = simulation.rates([simulation.Design(simulation.EQUAL, 2.0, 1)], BOARDS, seed=3)
    assert configurations.false_claims <= at_most(0.05)
    assert 0.93 <= configurations.coverage <= 0.97
    assert methods.false_claims > 0.3
    assert methods.coverage < 0.8
