"""Starts or joins Ray, and says what it holds. Sets the environment that Ray's parts read at import."""

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
from orchestrator.planning.config import ComputeConfig, OperationConfig

_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "3600",  # a cluster that grows takes minutes to hand out a machine
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
STARTS = 3
"""How often a Ray of the command's own is started before that is given up."""
_NOT_YET_UP = "timed out during startup"  # in what Ray raises
_WORKERS_READ = ("NO_ALBUMENTATIONS_UPDATE", "RAY_TRAIN_V2_ENABLED")


def worker_resources(compute: ComputeConfig, operation: OperationConfig) -> dict[str, float]:
    """What one training worker takes, in Ray's words."""
    cpus = {"CPU": float(compute.cpus_per_worker)}
    return cpus | ({"GPU": operation.gpus_per_worker} if compute.device == "cuda" else {})


@dataclass(frozen=True)
class ClusterResources:
    """What the cluster has in all, node by node: CPUs and GPUs."""

    nodes: tuple[tuple[float, float], ...]

    @property
    def cpus(self) -> float:
        """Of all nodes."""
        return sum(cpus for cpus, _ in self.nodes)

    @property
    def gpus(self) -> float:
        """Of all nodes."""
        return sum(gpus for _, gpus in self.nodes)

    def workers(self, each: Mapping[str, float]) -> int:
        """How many training workers fit: a worker lies on one node, so what two nodes have left over adds up to none."""
        cpu, gpu = each["CPU"], each.get("GPU")
        return sum(
            int(cpus // cpu) if gpu is None else min(int(cpus // cpu), _share(gpus, gpu))
            for cpus, gpus in self.nodes
        )

    def cohorts_at_once(self, compute: ComputeConfig, operation: OperationConfig) -> int:
        """How many cohorts fit beside each other.

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
                f"workers ({self.cpus:g} CPUs and {self.gpus:g} GPUs on {len(self.nodes)} nodes); lower compute.workers or "
                "compute.cpus_per_worker, or join a larger cluster"
            )
        return min(fit, operation.cohorts_at_once or fit)


def _share(gpus: float, each: float) -> int:
    """Workers on a node's GPUs. A worker never takes parts of two."""
    return int(gpus) * int(1 / each + 1e-9)


def prepare_environment(address: str) -> None:
    """Sets what Ray reads from the environment; must come before anything imports ray.

    An embedded Ray is locked with a token, so that only processes which this one starts get in: its daemons listen on
    every interface of the machine. Without a token of ours Ray would write one into the home folder, for all to share.

    Raises:
        UsageError: the address is one of Ray's client.
    """
    os.environ.update({key: value for key, value in _ENVIRONMENT.items() if key not in os.environ})
    if address.startswith("ray://"):
        raise UsageError(
            f"--address {address}: a sweep through Ray's client would end with this terminal; submit it as a job: "
            "--address job:http://HOST:8265 (the same as `ray job submit`), or run it on the head with --address auto"
        )
    if address == LOCAL:
        # This machine gives no notice before it goes: one process less per start of the workers.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    if "RAY_AUTH_MODE" in os.environ:
        return
    if address == LOCAL:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    elif {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ["RAY_AUTH_MODE"] = "token"


def is_job(address: str) -> bool:
    """Whether the address names a cluster to which the sweep is handed as a job."""
    return address == "job" or address.startswith("job:")


@contextmanager
def ray_session(address: str, operation: OperationConfig, *, verbose: bool) -> Iterator[ClusterResources]:
    """Ray for the time of a sweep.

    Args:
        address: `local` starts a Ray of its own that only this machine can reach; `auto` or HOST:PORT joins one.
        operation: size of the embedded object store.
        verbose: lets Ray's own messages through.

    Raises:
        UsageError: the address cannot be joined.
    """
    prepare_environment(address)
    import ray

    quiet = logging.INFO if verbose else logging.ERROR
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(quiet)
    settings: dict[str, Any] = {"log_to_driver": verbose, "logging_level": quiet}
    if address == LOCAL:  # its workers inherit this process's environment
        settings |= {
            "include_dashboard": False,
            "object_store_memory": operation.object_store_mb * 2**20,
            "_node_ip_address": _loopback(),
        }
    else:
        settings["runtime_env"] = {"env_vars": {key: os.environ[key] for key in _WORKERS_READ}}
    try:
        _start(ray, address, settings)
    except (ConnectionError, ValueError, OSError) as error:
        if address == LOCAL:
            raise
        raise UsageError(
            f"--address {address} cannot be joined: {error}. Start one with `ray start --head`."
        ) from error
    if not verbose:
        _silence_raylet()
    if address != LOCAL and not _asks_for_token():
        print(_OPEN_CLUSTER.format(address=address), file=sys.stderr)
    try:
        yield holdings(ray)
    finally:
        ray.shutdown()


def _start(ray: Any, address: str, settings: Mapping[str, Any]) -> None:
    """Starts or joins Ray. One of its own that is not up in Ray's 30 seconds gets another try, what it left being gone.

    Busy cores bring that about, or a disk from which Ray's parts are read for the first time.
    """
    for left in reversed(range(STARTS)):
        before = _children()
        try:
            ray.init(address=address, **settings)
        except Exception as error:
            if address != LOCAL or _NOT_YET_UP not in str(error) or not left:
                raise
            for process in _children() - before:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        else:
            return


def _children() -> set[int]:
    """Ids of the processes that this one has started; none where the system does not tell."""
    told = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return {int(process) for text in told for process in text.split()}


_OPEN_CLUSTER = (
    "WARNING: the Ray cluster at {address} does not ask for a token: whoever reaches its ports can run code on it, with "
    "the rights of its owner. Start it, and this command, with RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN."
)


def _asks_for_token() -> bool:
    """Whether this process showed a token to get in; a cluster that asks for one refuses whoever has none."""
    from ray import _raylet

    return bool(_raylet.get_authentication_mode() == _raylet.AuthenticationMode.TOKEN)  # type: ignore[attr-defined]


def holdings(ray: Any) -> ClusterResources:
    """What the cluster has now."""
    each = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return ClusterResources(tuple((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in each))


def _silence_raylet() -> None:
    """Ray prints its daemons' messages to standard output, whatever the logging level: here they go nowhere."""
    import ray._private.worker

    ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None


def _loopback() -> str:
    """An address only this machine can reach. Ray replaces 127.0.0.1 by an outward one, but not its neighbour."""
    return "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
