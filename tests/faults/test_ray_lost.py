"""Deaths of Ray's own processes: the sweep goes on by itself, or says so with an exit code of its own."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.harness import Toll, assert_nothing_lost, disturbed_run
from tests.orchestrator.sweeps import SMALL


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_sweep_goes_on_without_its_controller_and_coordinator_and_after_the_same_command_without_its_gcs(
    undisturbed: Path, tmp_path: Path
) -> None:
    """`disturbed_run` checks that no process is left when the command ends."""
    toll = Toll()
    kinds = ["controller", "coordinator", "gcs"]
    assert disturbed_run(SMALL, tmp_path / "run", kinds, random.Random(1), toll, span=2.0) == len(kinds)
    said = (tmp_path / "run.log").read_text()
    assert "Ray lost the Ray Train controller of a worker group" in said
    assert "Ray lost the coordinator of this sweep (its process died); another one is started" in said
    assert said.count("Ray lost its control service (GCS)") == len(toll.lost_seconds) == 1
    assert_nothing_lost(tmp_path / "run", undisturbed)
    print(toll.sentence())
