"""Start an embedded Ray or join a cluster, and say what resources it has."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import UsageError
from orchestrator.cluster.session_folder import short_session_folder
from orchestrator.planning.config import ComputeConfig, OperationConfig

_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "3600",  # an autoscaler takes minutes to provide a machine
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "NO_ALBUMENTATIONS_UPDATE": "1",
}
LOCAL = "local"
START_ATTEMPTS = 3
"""Attempts to start an embedded Ray."""
_WORKERS_READ = ("NO_ALBUMENTATIONS_UPDATE", "RAY_TRAIN_V2_ENABLED")


def worker_resources(compute: ComputeConfig, operation: OperationConfig) -> dict[str, float]:
    """Ray resources of one training worker."""
    cpus = {"CPU": float(compute.cpus_per_worker)}
    return cpus | ({"GPU": operation.gpus_per_worker} if compute.device == "cuda" else {})


@dataclass(frozen=True)
class ClusterResources:
    """CPUs and GPUs of the cluster, node by node."""

    nodes: tuple[tuple[float, float], ...]

    @property
    def cpus(self) -> float:
        """CPUs of all nodes."""
        return sum(cpus for cpus, _ in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(gpus for _, gpus in self.nodes)

    def workers(self, each: Mapping[str, float]) -> int:
        """Number of training workers that fit. A worker runs on one node, so what two nodes have left is not added up."""
        cpu, gpu = each["CPU"], each.get("GPU")
        return sum(
            int(cpus // cpu) if gpu is None else min(int(cpus // cpu), _workers_on_gpus(gpus, gpu))
            for cpus, gpus in self.nodes
        )

    def cohorts_at_once(self, compute: ComputeConfig, operation: OperationConfig) -> int:
        """Number of cohorts that fit at the same time.

        Raises:
            UsageError: not even one does.
        """
        each = worker_resources(compute, operation)
        workers = self.workers(each)
        fit = workers // compute.workers
        if not fit:
            needs = " and ".join(f"{amount:g} {kind}s" for kind, amount in each.items())
            raise UsageError(
                f"compute.workers is {compute.workers}, each with {needs}: the cluster has room for {workers} such "
                f"workers ({self.cpus:g} CPUs and {self.gpus:g} GPUs on {len(self.nodes)} nodes); {self._remedy(compute, each)}, "
                "or join a larger cluster"
            )
        return min(fit, operation.cohorts_at_once or fit)

    def _remedy(self, compute: ComputeConfig, each: Mapping[str, float]) -> str:
        """The settings that help if not one cohort fits."""
        if "GPU" in each and not self.gpus:
            return "set compute.device to cpu"
        if max((cpus for cpus, _ in self.nodes), default=0.0) < each["CPU"]:
            return "lower compute.cpus_per_worker"
        return "lower compute.workers" + (" or compute.cpus_per_worker" if each["CPU"] > 1 else "")


def _workers_on_gpus(gpus: float, each: float) -> int:
    """Workers on a node's GPUs. A worker never takes parts of two GPUs."""
    return int(gpus) * int(1 / each + 1e-9)


def prepare_environment(address: str) -> None:
    """Set what Ray reads from the environment. Call it before anything imports ray.

    An embedded Ray asks for a random token, so that only processes started by this one can use it: its daemons listen on
    every interface of the machine. Without this token Ray would write a shared one into the home folder.

    Raises:
        UsageError: the address is of Ray's client.
    """
    os.environ.update({key: value for key, value in _ENVIRONMENT.items() if key not in os.environ})
    if address.startswith("ray://"):
        raise UsageError(
            f"--address {address}: a sweep through Ray's client would end with this terminal; submit it as a job: "
            "--address job:http://HOST:8265 (the same as `ray job submit`), or run it on the head with --address auto"
        )
    if address == LOCAL:
        # This machine gives no notice before it is taken away: one process less for each start of the workers.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    if "RAY_AUTH_MODE" in os.environ:
        return
    if address == LOCAL:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    elif {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ["RAY_AUTH_MODE"] = "token"


def is_job(address: str) -> bool:
    """Whether the address says that the sweep is submitted to a cluster as a job."""
    return address == "job" or address.startswith("job:")


@contextmanager
def ray_session(address: str, operation: OperationConfig, *, verbose: bool) -> Iterator[ClusterResources]:
    """Ray while the block runs.

    Args:
        address: `local` starts an embedded Ray that only this machine can reach; `auto` or HOST:PORT joins a cluster.
        operation: size of the embedded object store.
        verbose: show Ray's own messages.

    Raises:
        UsageError: the address cannot be joined.
    """
    prepare_environment(address)
    import ray

    from orchestrator.cluster import ray_private

    quiet = logging.INFO if verbose else logging.ERROR
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(quiet)
    settings: dict[str, Any] = {"log_to_driver": verbose, "logging_level": quiet}
    if address == LOCAL:  # its workers inherit this process's environment
        settings |= {
            "include_dashboard": False,
            "object_store_memory": operation.object_store_mb * 2**20,
            **ray_private.local_address_settings(_loopback()),
        }
    else:
        settings["runtime_env"] = {"env_vars": {key: os.environ[key] for key in _WORKERS_READ}}
    ray_private.keep_signal_handlers()
    folder = contextlib.ExitStack()
    try:
        if address == LOCAL:
            folder.enter_context(short_session_folder())
        _start(ray, address, settings)
    except (ConnectionError, ValueError, OSError) as error:
        folder.close()
        if address == LOCAL:
            raise
        raise UsageError(
            f"--address {address} cannot be joined: {error}. Start one with `ray start --head`."
        ) from error
    if not verbose:
        ray_private.silence_raylet()
    if address != LOCAL and not ray_private.cluster_asks_for_token():
        print(_OPEN_CLUSTER.format(address=address), file=sys.stderr)
    try:
        yield cluster_resources(ray)
    finally:
        ray.shutdown()
        folder.close()


def _start(ray: Any, address: str, settings: Mapping[str, Any]) -> None:
    """Start or join Ray. An embedded Ray that is not up within Ray's 30 seconds is ended and started again.

    That happens when the cores are busy, or when Ray's files are read from the disk for the first time.
    """
    from orchestrator.cluster.ray_private import STARTUP_TIMEOUT

    for left in reversed(range(START_ATTEMPTS)):
        before = _child_processes()
        try:
            ray.init(address=address, **settings)
        except Exception as error:
            if address != LOCAL or STARTUP_TIMEOUT not in str(error) or not left:
                raise
            for process in _child_processes() - before:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        else:
            return


def _child_processes() -> set[int]:
    """Ids of this process's children; none where the system does not say."""
    listed = [path.read_text(encoding="ascii") for path in Path("/proc/self/task").glob("*/children")]
    return {int(process) for text in listed for process in text.split()}


_OPEN_CLUSTER = (
    "WARNING: the Ray cluster at {address} does not ask for a token: whoever reaches its ports can run code on it, with "
    "the rights of its owner. Start it, and this command, with RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN."
)


def cluster_resources(ray: Any) -> ClusterResources:
    """Resources of the nodes that are alive now."""
    each = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return ClusterResources(tuple((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in each))


def _loopback() -> str:
    """An address that only this machine can reach. Ray replaces 127.0.0.1 by an outward one, but not 127.0.0.2."""
    return "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
