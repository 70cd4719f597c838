"""The same command on clusters of several Ray nodes with different addresses, which join and leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.orchestrator import ray_nodes
from tests.orchestrator.sweeps import Sweep, assert_equal_runs, counted

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(1800)]


def test_smoke_on_one_two_and_four_nodes_gives_the_same_board(
    nodes_env: dict[str, str], tmp_path: Path
) -> None:
    found = []
    for count in (1, 2, 4):
        folder = tmp_path / str(count)
        folder.mkdir()
        with ray_nodes.Cluster(folder, nodes_env, nodes=count) as cluster:
            sweep = Sweep("smoke", folder / "run", "--address", cluster.address)
            assert sweep.finish(timeout=600) == 0, sweep.text()
        found.append(folder / "run")
    for other in found[1:]:
        assert_equal_runs(other, found[0])


def test_nodes_join_and_leave_until_the_cluster_is_one_worker_too_small_for_what_runs_on_it(
    nodes_env: dict[str, str], tmp_path: Path
) -> None:
    """Two cohorts of two workers: the cluster has room for one, then for two, then for one and a half."""
    two = ("--set", "compute.workers=2", "--set", "recipes.student.steps=1200", "--set", "search.trials=0")
    output = tmp_path / "run"
    with ray_nodes.Cluster(tmp_path, nodes_env, nodes=2) as cluster:
        sweep = Sweep("smoke", output, "--address", cluster.address, *two)
        sweep.wait_until(lambda: counted(output, phase="teacher") >= 1, timeout=400)
        cluster.add()
        cluster.add()
        sweep.wait_until(lambda: len(cluster.processes("RayTrainWorker")) == 4, timeout=400)
        cluster.lose_one_that_trains()
        assert sweep.finish(timeout=900) == 0, sweep.text()
    expected = Sweep("smoke", tmp_path / "expected", *two)  # one cohort after another, on two cores
    assert expected.finish(timeout=900) == 0, expected.text()
    assert_equal_runs(output, tmp_path / "expected")
