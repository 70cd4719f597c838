"""Deaths of Ray's own processes: the sweep goes on by itself, or says so with an exit code of its own."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from orchestrator.console.exit_codes import RAY_LOST
from tests.faults.harness import (
    END_SECONDS,
    TITLES,
    Toll,
    assert_nothing_lost,
    end_without_ray,
    kill,
    processes,
)
from tests.orchestrator.sweeps import SMALL, Sweep, descendants


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_sweep_goes_on_without_its_controller_and_coordinator_and_after_the_same_command_without_its_gcs(
    undisturbed: Path, tmp_path: Path
) -> None:
    toll, output = Toll(), tmp_path / "run"
    sweep = Sweep(SMALL, output)
    for kind, line in (
        ("controller", "Ray lost the Ray Train controller of a worker group"),
        ("coordinator", "Ray lost the coordinator of this sweep (its process died); another one is started"),
    ):
        sweep.wait_until(lambda: bool(processes(sweep, "RayTrainWorker")), END_SECONDS)
        assert kill(sweep, kind, random.Random(1), toll)
        sweep.wait_until(lambda line=line: line in sweep.text(), END_SECONDS)
    family, struck_at = descendants(sweep.process.pid), time.monotonic()
    [gcs] = processes(sweep, *TITLES["gcs"])
    os.kill(gcs, signal.SIGKILL)
    assert sweep.process.wait(120) == RAY_LOST, sweep.text()
    end_without_ray(sweep, family, struck_at, toll)
    assert "Ray lost its control service (GCS)" in sweep.text()
    again = Sweep(SMALL, output)
    assert again.finish(END_SECONDS) == 0, again.text()
    assert_nothing_lost(output, undisturbed)
