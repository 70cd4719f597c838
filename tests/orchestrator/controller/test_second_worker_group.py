"""Room that one cohort leaves free is used by a second crew for it, and nothing in the results tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.ledger.tables import Ledger
from tests.orchestrator.sweeps import SMALL, Sweep, assert_equal_runs

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(1800)]

LONG_WAVES = ("--set", "search.trials=8", "--set", "recipes.student.steps=400", "--set", "operation.round_seconds=0.2",
              "--set", "compute.cpus_per_worker=1")  # fmt: skip


def waves_overlap(output: Path) -> bool:
    """Whether a wave of students began while another was trained."""
    rows = Ledger(output).read("trials").to_pandas()
    waves = rows[rows.phase != "teacher"].groupby("wave").agg({"started_at": "min", "finished_at": "max"})
    ends = waves.sort_values("started_at").finished_at.cummax().to_list()
    begins = waves.started_at.sort_values().to_list()
    return any(begin < end for begin, end in zip(begins[1:], ends, strict=False))


def test_two_crews_of_one_cohort_end_as_one_crew_does(tmp_path: Path) -> None:
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    assert Sweep(SMALL, alone, *LONG_WAVES, "--set", "operation.cohorts_at_once=1").finish(900) == 0
    assert Sweep(SMALL, beside, *LONG_WAVES, "--set", "operation.cohorts_at_once=2").finish(900) == 0
    assert not waves_overlap(alone)
    assert waves_overlap(beside)
    assert_equal_runs(beside, alone)
    assert not list(beside.glob("checkpoints/*/*"))
