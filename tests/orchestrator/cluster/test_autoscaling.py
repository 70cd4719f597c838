"""A joined cluster that is too small: its autoscaler is asked for what is missing, and the sweep waits a while."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cluster.autoscaling import scale_up
from orchestrator.cluster.session import ClusterResources
from orchestrator.planning.config import ComputeConfig, OperationConfig
from tests.orchestrator import ray_nodes

JOIN = """
import sys
from orchestrator.cluster.session import ray_session
from orchestrator.planning.config import ComputeConfig, OperationConfig
from orchestrator.cluster.autoscaling import scale_up
with ray_session(sys.argv[1], OperationConfig(), verbose=False) as now:
    print("before", now.cpus, flush=True)
    now = scale_up(now, ComputeConfig(), OperationConfig(wait_minutes=3))
    print("after", now.cpus, now.cohorts_at_once(ComputeConfig(), OperationConfig()), flush=True)
"""


@pytest.fixture
def autoscaling() -> Iterator[tuple[str, dict[str, str]]]:
    """A head without CPUs, whose autoscaler may start a node of one CPU on this machine."""
    port = ray_nodes.free_port()
    address = f"127.0.0.2:{port}"
    env = ray_nodes.environment() | {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    config = {
        "cluster_name": "fake", "max_workers": 1, "idle_timeout_minutes": 5, "head_node_type": "ray.head.default",
        "provider": {"type": "fake_multinode", "gcs_address": address},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1},
        },
        "auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": [], "setup_commands": [],
        "initialization_commands": [], "head_setup_commands": [], "worker_setup_commands": [],
        "head_start_ray_commands": [], "worker_start_ray_commands": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        written = Path(folder) / "cluster.json"
        written.write_text(json.dumps(config))
        node = ray_nodes.start(
            "--head", "--num-cpus=0", "--node-ip-address=127.0.0.2", f"--port={port}", f"--temp-dir={folder}",
            "--include-dashboard=false", f"--autoscaling-config={written}", env=env, log=Path(folder) / "start.log",
        )  # fmt: skip
        try:
            yield address, env
        finally:
            ray_nodes.end([node])


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_autoscaling_cluster_grows_until_a_cohort_fits(autoscaling: tuple[str, dict[str, str]]) -> None:
    address, env = autoscaling
    done = subprocess.run(
        [sys.executable, "-c", JOIN, address],
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert "before 0.0" in done.stdout, done.stderr
    assert "after 1.0 1" in done.stdout, done.stderr
    assert "asked its autoscaler for 1 × {'CPU': 1.0}" in done.stderr


def test_a_cluster_that_is_large_enough_or_need_not_be_waited_for_is_taken_as_it_is() -> None:
    large, small = ClusterResources(((4, 0), (4, 0))), ClusterResources(((1, 0),))
    wait = OperationConfig(wait_minutes=5)
    assert scale_up(large, ComputeConfig(workers=4), wait) is large
    assert scale_up(small, ComputeConfig(workers=4), OperationConfig()) is small
