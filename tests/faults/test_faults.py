"""Processes killed at random moments: the same command ends as if nothing had happened."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from orchestrator.console.exit_codes import RAY_LOST
from tests.faults.harness import (
    END_SECONDS,
    PATIENT,
    TITLES,
    Toll,
    assert_nothing_lost,
    disturbed_run,
    end_without_ray,
    kill,
    manifests,
    processes,
)
from tests.orchestrator import ray_nodes
from tests.orchestrator.sweeps import SMALL, Sweep, counted, descendants, run, trials

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]


def test_a_run_that_loses_its_gcs_its_coordinator_a_worker_and_a_checkpoint_ends_as_the_one_nobody_disturbed(
    undisturbed: Path, tmp_path: Path
) -> None:
    """One harm of each kind, in as few sweeps as they need. All kinds, at random moments: `make test-long`."""
    toll, choose, output = Toll(), random.Random(1), tmp_path / "run"
    sweep = Sweep(SMALL, output, *PATIENT)
    sweep.wait_until(lambda: bool(processes(sweep, *TITLES["worker"])), END_SECONDS)
    family, struck_at = descendants(sweep.process.pid), time.monotonic()
    assert kill(sweep, "gcs", choose, toll)
    assert sweep.process.wait(120) == RAY_LOST, sweep.text()
    end_without_ray(sweep, family, struck_at, toll)
    assert "Ray lost its control service (GCS)" in sweep.text()

    sweep = Sweep(SMALL, output, *PATIENT)
    sweep.wait_until(lambda: bool(processes(sweep, *TITLES["worker"])), END_SECONDS)
    assert kill(sweep, "coordinator", choose, toll)
    said = "Ray lost the coordinator of this sweep (its process died); another one is started"
    sweep.wait_until(lambda: said in sweep.text(), END_SECONDS)
    for kind in ("worker", "damage"):
        sweep.wait_until(lambda: bool(manifests(sweep)), END_SECONDS)
        while not kill(sweep, kind, choose, toll):
            assert sweep.process.poll() is None, sweep.text()
    sweep = Sweep(SMALL, output, *PATIENT)
    assert sweep.finish(END_SECONDS) == 0, sweep.text()
    assert_nothing_lost(output, undisturbed)


@pytest.mark.long
def test_a_run_whose_processes_are_killed_at_random_ends_as_the_one_nobody_disturbed(
    undisturbed: Path, tmp_path: Path
) -> None:
    toll = Toll()
    kinds = ["teacher", "command", "worker", "damage"]
    folder = tmp_path / "outputs"  # what a teacher said before a kill is read after it
    kept = ("--set", f"operation.teacher_outputs={{folder: {folder}, gigabytes: 0.1}}")
    struck = disturbed_run(SMALL, tmp_path / "run", kinds, random.Random(1), toll, span=2.0, arguments=kept)
    assert struck == len(kinds)
    assert any(folder.rglob("*.outputs"))
    assert_nothing_lost(tmp_path / "run", undisturbed)
    print(toll.sentence())


@pytest.mark.long
def test_one_of_two_workers_is_killed_and_both_go_on_from_the_checkpoint(tmp_path: Path) -> None:
    """Two data-parallel workers, which must both be replaced, since one cannot go on alone."""
    two = ("--set", "compute.workers=2", "--set", "search.trials=0", "--set", "final.seeds=[1]")
    toll = Toll()
    struck = disturbed_run(
        SMALL, tmp_path / "run", ["worker"], random.Random(3), toll, span=3.0, arguments=two
    )
    assert struck == 1
    rows = trials(tmp_path / "run")
    assert set(rows.world_size) == {2}
    assert set(rows.status) == {"ok"}
    assert len(rows) == 3
    expected = run(SMALL, tmp_path / "expected", *two)
    assert expected.process.returncode == 0, expected.text()
    assert_nothing_lost(tmp_path / "run", tmp_path / "expected")


@pytest.mark.long
def test_the_node_that_trains_is_lost_and_another_goes_on(
    undisturbed: Path, tmp_path: Path, nodes_env: dict[str, str]
) -> None:
    """A head that trains nothing and two nodes that do, with addresses of their own."""
    output = tmp_path / "run"
    with ray_nodes.Cluster(tmp_path, nodes_env, nodes=2) as cluster:
        sweep = Sweep(SMALL, output, "--address", cluster.address, *PATIENT)
        sweep.wait_until(lambda: counted(output, phase="search", status="pruned") >= 2)
        cluster.lose_one_that_trains()
        assert sweep.finish(timeout=400) == 0, sweep.text()
    assert_nothing_lost(output, undisturbed)
