"""A run that grows by a longer sweep file, with real Ray."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from orchestrator.ledger.tables import Ledger
from tests.orchestrator.sweeps import SMALL, Sweep, board, counted, curves, run, trials

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.mark.long
def test_a_run_grown_by_a_method_and_a_seed_equals_the_long_one_also_after_a_kill_in_between(
    undisturbed: Path, tmp_path: Path
) -> None:
    """Trials, losses and board are the same to the bit; only the number of a trial's wave may differ."""
    folder = tmp_path / "run"
    short = ("--set", "methods=[student]", "--set", "final.seeds=[1]")
    assert run(SMALL, folder, *short).process.returncode == 0
    first = set(trials(folder).index)
    assert len(first) == 1 + 4 + 1
    again = Sweep(SMALL, folder, log=tmp_path / "killed.log")
    again.wait_until(lambda: counted(folder, method="heteroakd", phase="search") >= 2)
    again.end()
    assert "+ 1 method, 1 study, 1 final seed, 7 trainings; 6 kept" in again.text()
    assert len(trials(folder)) < 13
    last = run(SMALL, folder)
    assert last.process.returncode == 0, last.text()
    found, expected = trials(folder), trials(undisturbed)
    pd.testing.assert_frame_equal(found.drop(columns="wave"), expected.drop(columns="wave"), check_exact=True)
    for read in (curves, board):
        pd.testing.assert_frame_equal(read(folder), read(undisturbed), check_exact=True)
    attempts = Ledger(folder).read("trials", ["trial_id", "attempt"]).to_pylist()
    assert {row["trial_id"]: row["attempt"] for row in attempts} == dict.fromkeys(expected.index, 1)
