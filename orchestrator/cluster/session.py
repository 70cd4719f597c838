"""Start an embedded Ray or join a cluster, and say what resources it has."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from distill.errors import UsageError
from orchestrator.cluster.ray_watch import (
    CLUSTER_GRACE_SECONDS,
    LOCAL_GRACE_SECONDS,
    RayWatch,
    child_processes,
    embedded_processes,
    end_child_processes,
    no_process_left,
    ray_processes,
)
from orchestrator.cluster.session_folder import short_session_folder
from orchestrator.planning.config import ComputeConfig, OperationConfig
from orchestrator.protocol import RayLostError

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
_NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR}
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
def ray_session(
    address: str,
    operation: OperationConfig,
    *,
    verbose: bool,
    on_lost: Callable[[RayLostError], None] = lambda error: None,
) -> Iterator[ClusterResources]:
    """Ray while the block runs. No process of an embedded Ray is left after it.

    Args:
        address: `local` starts an embedded Ray that only this machine can reach; `auto` or HOST:PORT joins a cluster.
        operation: size of the embedded object store.
        verbose: show Ray's own messages.
        on_lost: called from a thread when one of Ray's own processes has died. The block may then wait for ever.

    Raises:
        UsageError: the address cannot be joined.
        RayLostError: an embedded Ray does not start, or an error in the block comes from the death of Ray's processes.
    """
    prepare_environment(address)
    import ray

    from orchestrator.cluster import ray_private

    settings = _settings(address, operation, verbose)
    with contextlib.ExitStack() as at_end:
        if address == LOCAL:
            at_end.enter_context(short_session_folder())
            at_end.enter_context(no_process_left())
        try:
            # Joining a cluster starts no daemons.
            with ray_private.keep_sigterm_handler(), ray_private.few_daemons(prints_logs=verbose):
                _start(ray, address, settings)
        except (ConnectionError, ValueError, OSError) as error:
            if address == LOCAL:
                raise
            raise UsageError(
                f"--address {address} cannot be joined: {error}. Start one with `ray start --head`."
            ) from error
        if not verbose:
            ray_private.silence_raylet()
        if address != LOCAL and not ray_private.cluster_asks_for_token():
            print(_OPEN_CLUSTER.format(address=address), file=sys.stderr)
        grace = LOCAL_GRACE_SECONDS if address == LOCAL else CLUSTER_GRACE_SECONDS
        embedded = embedded_processes() if address == LOCAL else {}
        watch = RayWatch(ray_processes(ray), grace, on_lost, embedded)
        try:
            yield cluster_resources(ray)
        except UsageError:
            raise
        except Exception as error:
            if (lost := watch.find_lost()) is not None:  # this error is its consequence
                raise lost from error
            raise
        finally:
            watch.stop()
            if not isinstance(sys.exception(), RayLostError):
                ray.shutdown()


def _settings(address: str, operation: OperationConfig, verbose: bool) -> dict[str, Any]:
    """Arguments of `ray.init`; sets the level of Ray's loggers too."""
    from orchestrator.cluster import ray_private

    level = logging.INFO if verbose else logging.ERROR
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(level)
    settings: dict[str, Any] = {"log_to_driver": verbose, "logging_level": level}
    if address == LOCAL:  # its workers inherit this process's environment
        return settings | {
            "include_dashboard": False,
            "object_store_memory": operation.object_store_mb * 2**20,
            **ray_private.local_address_settings(_loopback()),
        }
    return settings | {"runtime_env": {"env_vars": {key: os.environ[key] for key in _WORKERS_READ}}}


def _start(ray: Any, address: str, settings: Mapping[str, Any]) -> None:
    """Start or join Ray. An embedded Ray that does not start is ended and started again.

    That happens when the cores are busy, or when Ray's files are read from the disk for the first time: Ray waits 30
    seconds for its own processes.

    Raises:
        RayLostError: an embedded Ray does not start.
        UsageError: its folder cannot be written.
    """
    for left in reversed(range(START_ATTEMPTS)):
        before = child_processes()
        try:
            ray.init(address=address, **settings)
        except Exception as error:
            if address != LOCAL or isinstance(error, ValueError | TypeError):  # of the settings
                raise
            if isinstance(error, OSError) and error.errno in _NO_PLACE:
                raise UsageError(
                    f"Ray cannot write its files: {error}; make room, or name another folder in RAY_TMPDIR"
                ) from error
            with contextlib.suppress(Exception):
                ray.shutdown()
            end_child_processes(before)
            if not left:
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise RayLostError(
                    f"Ray did not start in {START_ATTEMPTS} attempts ({reason[0].rstrip('.')}); is this machine busy, or out of "
                    "memory?"
                ) from error
        else:
            return


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
