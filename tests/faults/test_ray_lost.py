"""Deaths of Ray's own processes: said in a sentence, with an exit code of their own; the same command goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from orchestrator.console.exit_codes import RAY_LOST
from tests.faults.harness import processes
from tests.orchestrator.sweeps import SMALL, Sweep, assert_equal_runs, counted


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_a_sweep_whose_coordinator_dies_says_so_and_goes_on_with_the_same_command(
    undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    sweep = Sweep(SMALL, output)
    sweep.wait_until(lambda: counted(output, phase="teacher") >= 1)
    [coordinator] = processes(sweep, "ray::Coordinator")
    os.kill(coordinator, signal.SIGKILL)
    assert sweep.finish() == RAY_LOST, sweep.text()
    assert "Ray lost the coordinator of this sweep" in sweep.text()
    again = Sweep(SMALL, output)
    assert again.finish() == 0, again.text()
    assert_equal_runs(output, undisturbed)
