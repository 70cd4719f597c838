"""Two sweeps on one Ray cluster at the same time."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.orchestrator import ray_nodes
from tests.orchestrator.sweeps import Sweep, assert_equal_runs


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_two_sweeps_share_a_cluster_and_each_ends_as_it_does_alone(
    nodes_env: dict[str, str], tmp_path: Path
) -> None:
    """Each wants two workers, and the cluster has room for one and later for two. One of them is stopped while it has none.

    The worker of the first one is paused meanwhile, so that it keeps its room. Each sweep then has one worker, and a cohort
    that waits for the room of another: none may keep an idle worker for later.
    """
    first, second = tmp_path / "first", tmp_path / "second"
    with ray_nodes.Cluster(tmp_path, nodes_env, nodes=1) as cluster:
        address = ("--address", cluster.address)
        one = Sweep("smoke", first, *address)
        one.wait_until(lambda: len(cluster.processes("RayTrainWorker")) == 1)
        [worker] = cluster.processes("RayTrainWorker")
        os.kill(worker, signal.SIGSTOP)
        refused = Sweep("smoke", first, *address, log=tmp_path / "refused.log")
        assert refused.finish() == 2, refused.text()
        assert f"is held by process {one.process.pid}" in refused.text()
        two = Sweep("smoke", second, *address)
        two.wait_until(lambda: len(cluster.processes("TrainController")) == 2)
        two.interrupt()
        assert two.finish(120) == 130, two.text()
        again = Sweep("smoke", second, *address)
        again.wait_until(lambda: len(cluster.processes("TrainController")) == 2)
        cluster.add()
        again.wait_until(lambda: len(cluster.processes("TrainController")) == 4)
        os.kill(worker, signal.SIGCONT)
        for sweep in (one, again):
            assert sweep.finish(600) == 0, sweep.text()
    alone = Sweep("smoke", tmp_path / "alone")
    assert alone.finish(600) == 0, alone.text()
    for shared in (first, second):
        assert_equal_runs(shared, tmp_path / "alone")
