"""Budgets: by the clock, by worker hours, by money; options override the file, and a price turns hours into money."""

from __future__ import annotations

import json
import re

import pytest

from distill.errors import UsageError
from orchestrator.console.exit_codes import BUDGET, USAGE
from orchestrator.console.summary import exit_code
from orchestrator.controller.run_state import Run
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.cost_estimate import estimate
from orchestrator.planning.plan import make_plan
from orchestrator.planning.prices import price_of
from orchestrator.sweep import SweepOptions, command
from search_spaces import library
from tests.orchestrator.sweep_files import tiny_sweep


def run_with(**budget: object) -> Run:
    return Run(Ledger("/nowhere"), make_plan(tiny_sweep(budget=budget)))


def test_what_is_running_counts_towards_a_budget_of_worker_hours() -> None:
    run = run_with(gpu_hours=2.0)
    run.worker_seconds = 1.5 * 3600
    assert run.over_budget() is None
    run.running_seconds = 0.5 * 3600
    reason = run.over_budget()
    assert reason == "budget.gpu_hours is 2 and used up"
    run.stop(reason)
    assert exit_code(run) == BUDGET


def test_a_budget_of_money_is_used_up_by_worker_hours_times_price() -> None:
    run = run_with(cost=3.0, price=1.5)
    run.worker_seconds = 1.9 * 3600
    assert run.over_budget() is None
    run.running_seconds = 0.2 * 3600
    assert run.over_budget() == "budget.cost is 3 and used up, at 1.5 a worker hour"


def test_a_dry_run_tells_the_cost_at_the_price_that_is_known() -> None:
    found = estimate(make_plan(tiny_sweep(budget={"price": 100.0})))
    assert found["cost"] == pytest.approx(100.0 * found["worker_hours"], abs=0.02)
    assert found["cost"] > 0
    assert estimate(make_plan(tiny_sweep()))["cost"] is None


def test_options_override_the_files_budget_and_reach_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    options = SweepOptions(
        source="smoke", set=["budget.hours=9"], max_hours=2.0, max_gpu_hours=3.0, max_cost=4.0,
        price_per_hour="aws-g5.xlarge", dry_run=True, json=True,
    )  # fmt: skip
    assert command(options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["budget"] == {"hours": 2.0, "gpu_hours": 3.0, "cost": 4.0}
    assert found["price"]["hour"] == library.prices()["aws-g5.xlarge"]["hour"]


def test_every_listed_price_says_what_it_buys_and_as_of_when() -> None:
    for entry in library.prices().values():
        assert entry["hour"] > 0
        assert entry["what"]
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", str(entry["as_of"]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (SweepOptions(source="smoke", max_cost=5.0), "budget.cost is 5.*--price-per-hour.*aws-g5.xlarge"),
        (SweepOptions(source="smoke", price_per_hour="aws-g5.xlrage"), "did you mean 'aws-g5.xlarge'"),
        (SweepOptions(source="smoke", price_per_hour="-1"), "budget.price is -1, must be above 0"),
        (SweepOptions(source="smoke", max_hours=0.0), "budget.hours is 0.0, must be greater than 0"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(
    options: SweepOptions, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(options) == USAGE
    assert re.search(said, capsys.readouterr().err)


def test_a_price_of_ones_own_has_no_currency() -> None:
    config = tiny_sweep(budget={"price": 2.0}).budget
    price = price_of(config)
    assert price is not None
    assert price.amount(1.5) == "3.00"
    with pytest.raises(UsageError, match="not known"):
        price_of(tiny_sweep(budget={"price": "nothing"}).budget)
