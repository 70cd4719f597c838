"""Ray for the time of a sweep: nobody else on the network gets in."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SESSION = """
import os, sys
from orchestrator.cluster import ray_session
from orchestrator.config import OperationChoice
with ray_session("local", OperationChoice(object_store_mb=80), verbose=False):
    import ray
    print(ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"], flush=True)
    sys.stdin.read()
"""
JOIN = (
    "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print('in', ray.cluster_resources()['CPU'])"
)


def join(address: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What happens to a process that wants to join the Ray at this address."""
    command = [sys.executable, "-c", JOIN, address]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_only_who_has_the_sweeps_token_can_join_its_ray() -> None:
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with subprocess.Popen(
        [sys.executable, "-c", SESSION],
        env=stranger,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as session:
        assert session.stdout is not None
        address, token = session.stdout.readline().split()
        refused = join(address, stranger)
        assert refused.returncode != 0
        assert "ConnectionError" in refused.stderr
        friend = {**stranger, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        assert join(address, friend).stdout.startswith("in ")
        session.communicate("")
