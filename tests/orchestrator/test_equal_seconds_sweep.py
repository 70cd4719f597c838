"""A sweep at equal seconds, with real Ray: it measures, records, trains, and resumes with what it recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.ledger.tables import Ledger
from orchestrator.sweep import SweepOptions, command
from tests.orchestrator.sweeps import SMALL, run

BROKEN = {"name": "kd", "label": "broken", "config": {"temperature": 1e-40}}


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(300)
def test_steps_follow_from_the_costs_that_a_sweep_measures_once_and_a_method_without_a_cost_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    settings = ["compare=seconds", "search.trials=0", "final.seeds=[1]"]
    methods = f"methods={json.dumps(['student', 'cirkd', BROKEN])}"
    sweep = run(SMALL, folder, *(f"--set={setting}" for setting in (*settings, methods)))
    assert sweep.process.returncode == 3, sweep.text()
    assert "the cost of its steps could not be measured: NonFiniteLossError" in sweep.text()
    rows = Ledger(folder).read("trials").to_pylist()
    trials = {row["method"]: row for row in rows if row["phase"] == "final"}
    cost = trials["cirkd"]["step_cost"]
    assert cost > 1.05  # a loss of its own, and a teacher's pass
    assert {name: (row["compare"], row["step_cost"], row["steps_done"]) for name, row in trials.items()} == {
        "student": ("seconds", 1.0, 32),
        "cirkd": ("seconds", cost, int(32 / cost)),
    }
    plan = json.loads((folder / "plan.json").read_text())
    assert list(plan["config"]["step_costs"].values()) == [{"cirkd": cost}]

    resumed = SweepOptions(str(SMALL), [*settings, "methods=[student, cirkd]"], output=str(folder))
    assert command(resumed) == 0
    assert "measuring" not in capsys.readouterr().out
    assert Ledger(folder).read("trials").to_pylist() == rows
