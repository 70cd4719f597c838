"""Ray during a sweep: no one else on the network can join it, and the number of cohorts that fit is known."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from distill.errors import UsageError
from orchestrator.cluster import session as cluster
from orchestrator.cluster.session import LOCAL, ClusterResources
from orchestrator.planning.config import ComputeConfig, OperationConfig
from orchestrator.protocol import RayLostError

SESSION = """
import os, signal, sys, tempfile
from orchestrator.cluster.ray_watch import child_processes
from orchestrator.cluster.session import ray_session
from orchestrator.planning.config import OperationConfig
received = []
signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
signal.alarm(1000)
with ray_session("local", OperationConfig(object_store_mb=80), verbose=False):
    import ray
    with tempfile.TemporaryFile() as errors:
        os.dup2(errors.fileno(), 2)
        signal.raise_signal(signal.SIGTERM)
        printed = os.fstat(2).st_size
    dashboard = ray._private.worker.global_worker.node.webui_url or "none"
    found = [ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"], dashboard]
    print(*found, len(child_processes()), len(received), printed, signal.alarm(0) > 0, flush=True)
    sys.stdin.read()
"""
JOIN = (
    "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print('in', ray.cluster_resources()['CPU'])"
)


def join(address: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Result of a process that tries to join the Ray at this address."""
    command = [sys.executable, "-c", JOIN, address]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@contextmanager
def first_line(program: str, environment: dict[str, str]) -> Iterator[str]:
    """The first line that a program prints, which then stays alive until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline()
        process.communicate("")


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_only_a_process_with_the_token_can_join_an_embedded_ray_which_has_two_daemons_and_leaves_sigterm_alone() -> (
    None
):
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with first_line(SESSION, stranger) as line:
        address, token, dashboard, daemons, signals, printed_at_signal, keeps_alarm = line.split()
        assert address.startswith("127.")
        assert dashboard == "none"
        assert int(daemons) == 2  # GCS and raylet
        assert (int(signals), int(printed_at_signal)) == (1, 0)  # Ray prints a stack trace at SIGTERM
        assert keeps_alarm == "True"
        refused = join(address, stranger)
        assert refused.returncode != 0
        assert "ConnectionError" in refused.stderr
        friend = {**stranger, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        assert join(address, friend).stdout.startswith("in ")


OPEN = """
import ray, sys
ray.init(address="local", include_dashboard=False, num_cpus=1, object_store_memory=80 * 2**20, _node_ip_address="127.0.0.2")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
JOINED = """
import sys
from orchestrator.cluster.session import ray_session
from orchestrator.planning.config import OperationConfig
with ray_session(sys.argv[1], OperationConfig(), verbose=False) as holdings:
    print("in", holdings.cpus)
"""


@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.long
@pytest.mark.parametrize("locked", [False, True])
def test_joining_a_cluster_without_a_token_warns(locked: bool) -> None:
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64} if locked else {"RAY_AUTH_MODE": "disabled"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | auth
    with first_line(OPEN, environment) as line:
        address = line.strip()
        command = [sys.executable, "-c", JOINED, address]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    assert done.stdout == "in 1.0\n", done.stderr
    assert (f"the Ray cluster at {address} does not ask for a token" in done.stderr) == (not locked)


@pytest.mark.parametrize(
    ("nodes", "compute", "share", "fit"),
    [
        (((4, 0), (4, 0)), {"workers": 2, "cpus_per_worker": 2}, 1.0, 2),
        (((3, 0), (3, 0)), {"workers": 1, "cpus_per_worker": 2}, 1.0, 2),  # a worker runs on one node
        (((0, 0), (8, 2)), {"workers": 1, "cpus_per_worker": 2, "device": "cuda"}, 1.0, 2),
        (((0, 0), (8, 2)), {"workers": 1, "cpus_per_worker": 2, "device": "cuda"}, 0.5, 4),
        (((3, 2),), {"workers": 1, "cpus_per_worker": 2, "device": "cuda"}, 0.5, 1),
        (((8, 2),), {"workers": 1, "cpus_per_worker": 1, "device": "cuda"}, 0.4, 4),  # and on one GPU
    ],
)  # fmt: skip
def test_as_many_cohorts_run_at_once_as_their_workers_fit_on_single_nodes_and_gpus(
    nodes: tuple[tuple[float, float], ...], compute: dict[str, object], share: float, fit: int
) -> None:
    found = ClusterResources(nodes).cohorts_at_once(
        ComputeConfig.model_validate(compute), OperationConfig(gpus_per_worker=share)
    )
    assert found == fit


def test_a_cohort_for_which_no_single_node_has_room_is_refused_with_what_there_is() -> None:
    """The total number of CPUs is large enough, but Ray would wait for ever."""
    with pytest.raises(UsageError, match="each with 2 CPUs: the cluster has room for 1 such workers"):
        ClusterResources(((3, 0), (1, 0))).cohorts_at_once(
            ComputeConfig(workers=2, cpus_per_worker=2), OperationConfig()
        )


class SlowRay:
    """Starts a process at each `init`, which then fails with the next outcome, or succeeds if it is None."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.started: list[subprocess.Popen[bytes]] = []
        self.outcomes = list(outcomes)

    def init(self, **settings: object) -> None:
        self.started.append(subprocess.Popen(["sleep", "100"]))
        if (error := self.outcomes.pop(0)) is not None:
            raise error

    def shutdown(self) -> None:
        raise ConnectionError("Ray was never there")

    def still_there(self) -> int:
        """Number of processes that are left. Ends them."""
        left = [process for process in self.started if process.poll() is None]
        for process in left:
            process.kill()
            process.wait()
        return len(left)


LATE = Exception("The current node timed out during startup. This could happen because ...")
NO_GCS = RuntimeError("Failed to start GCS.  Last 0 lines of error files: ...")
NO_PORT = RuntimeError("Timed out waiting for file /tmp/ray/session/gcs_server_port")
REFUSED = ConnectionError("Failed to connect to the raylet")
FULL = OSError(errno.ENOSPC, "No space left on device")
WRONG = ValueError("object_store_memory is too small")


@pytest.mark.parametrize(
    ("address", "outcomes", "raised", "starts", "left"),
    [
        (LOCAL, [LATE, NO_GCS, None], None, 3, 1),
        (LOCAL, [NO_PORT, REFUSED, None], None, 3, 1),
        (LOCAL, [LATE] * 4, (RayLostError, "did not start in 3 attempts .*timed out during startup.* same command"), 3, 0),
        (LOCAL, [FULL, None], (UsageError, "No space left on device; make room, or name another folder in RAY_TMPDIR"), 1, 1),
        (LOCAL, [WRONG, None], (ValueError, "too small"), 1, 1),
        ("auto", [LATE, None], (Exception, "timed out"), 1, 1),
    ],
    ids=["late and without GCS", "other kinds", "never", "no place", "settings", "a joined one"],
)  # fmt: skip
def test_an_embedded_ray_that_does_not_start_under_load_is_started_again_and_leaves_no_processes(
    address: str,
    outcomes: list[Exception | None],
    raised: tuple[type[Exception], str] | None,
    starts: int,
    left: int,
) -> None:
    """Ray waits 30 seconds for its own processes, which can be too short on busy cores."""
    ray = SlowRay(*outcomes)
    with contextlib.nullcontext() if raised is None else pytest.raises(raised[0], match=raised[1]):
        cluster._start(ray, address, {})
    assert len(ray.started) == starts
    assert ray.still_there() == left
