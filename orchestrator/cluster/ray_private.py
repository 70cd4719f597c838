"""Every private or undocumented name of Ray that this project uses. Seen in Ray 2.60.0.

Each has a canary test in `tests/orchestrator/cluster/test_ray_private.py`, which fails if a newer Ray has changed it. Import
this module only after `session.prepare_environment`: Ray reads its environment when it is imported.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray._private.node
import ray._private.utils
import ray._private.worker
import ray.util
from ray import _raylet
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import PlacementGroup, remove_placement_group

UNUSED_CALLBACKS = {"DatasetsCallback", "PlacementGroupCleanerCallback"}
"""Callbacks of Ray Train that start a process each. Our workers read no Ray Data, and their placement group belongs to the
driver's job, with which Ray removes it."""


class WorkerGroupTrainer(DataParallelTrainer):
    """Ray's data-parallel trainer without the helper processes that a worker group never calls.

    If another version of Ray renames these callbacks, all of them are started, as in Ray's own trainers.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in UNUSED_CALLBACKS]


UNUSED_DAEMONS = ("start_monitor", "start_api_server")
"""Methods of Ray's `Node` that start a daemon which an embedded Ray does not need: the autoscaler's monitor, and the server of
dashboard and jobs, which also starts where no dashboard is asked for."""
LOG_DAEMON = "start_log_monitor"
"""The one that starts the daemon which sends the workers' output to the driver."""


@contextlib.contextmanager
def few_daemons(*, prints_logs: bool) -> Iterator[None]:
    """While the block runs, `ray.init` starts a head node without the daemons that an embedded Ray does not need.

    Each is a Python process of about 90 to 120 MB that takes 1.3 to 2.6 seconds of a core to start.

    Args:
        prints_logs: keep the daemon that sends the workers' output to the driver.
    """
    node: Any = ray._private.node.Node
    left_out = UNUSED_DAEMONS if prints_logs else (*UNUSED_DAEMONS, LOG_DAEMON)
    starts = {name: getattr(node, name) for name in left_out}
    for name in left_out:
        setattr(node, name, lambda node, **settings: None)
    try:
        yield
    finally:
        for name, start in starts.items():
            setattr(node, name, start)


def local_address_settings(address: str) -> dict[str, Any]:
    """Argument of `ray.init` for the address that an embedded node advertises."""
    return {"_node_ip_address": address}


def cluster_asks_for_token() -> bool:
    """Whether this process used a token to join; a cluster that asks for one refuses a process without."""
    mode = _raylet.get_authentication_mode()  # type: ignore[attr-defined]
    return bool(mode == _raylet.AuthenticationMode.TOKEN)  # type: ignore[attr-defined]


def silence_raylet() -> None:
    """Drop the messages of Ray's daemons, which Ray prints to standard output at every logging level."""
    ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None


@contextlib.contextmanager
def keep_sigterm_handler() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, in place of the two that `ray.init` installs while the block runs.

    One, in Python, would exit with code 15. The other, in C++, prints a stack trace, calls the earlier handler, and sets an
    alarm that ends the process by SIGABRT after three seconds: too soon for a checkpoint. Outside of the main thread, where
    Python installs no handlers, it stays.
    """
    ray._private.utils.set_sigterm_handler = lambda sigterm_handler: None
    timer = signal.getitimer(signal.ITIMER_REAL)
    yield
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
        if not any(timer):  # the caller's own timer goes on
            signal.alarm(0)  # of a SIGTERM that came before this line


def skip_experiment_snapshots() -> None:
    """Have Ray Tune write empty snapshots of an experiment. Nothing reads them, and on a full disk they would end the sweep.

    At its end Tune demands that there is one.
    """
    from ray.tune.execution.experiment_state import _ExperimentCheckpointManager

    def write_nothing(manager: Any, *args: Any, **kwargs: Any) -> None:
        folder = Path(manager._storage.experiment_fs_path)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "experiment_state-empty.json").touch()

    _ExperimentCheckpointManager.sync_up_experiment_state = write_nothing  # type: ignore[method-assign, assignment]


def remove_ownerless_placement_groups() -> None:
    """Remove the placement groups of actors of this job that have died, such as the controller of a Ray Train run.

    Ray removes them only when the job ends. Until then nothing else can use their CPUs and GPUs.
    """
    for group in _placement_groups():
        if group.creator_actor_dead:
            remove_placement_group(_handle(group))


def waiting_controllers() -> dict[str, PlacementGroup]:
    """Ids of this job's Ray Train controllers for whose workers the cluster has no room now, with what they wait for."""
    return {
        group.creator_actor_id.hex(): _handle(group)
        for group in _placement_groups()
        if group.state in (group.PENDING, group.RESCHEDULING) and not group.creator_actor_dead
    }


def end_waiting_controller(actor_id: str, waits_for: PlacementGroup) -> None:
    """Kill a controller of `waiting_controllers`. It listens to nothing while it waits."""
    worker: Any = ray._private.worker.global_worker
    with contextlib.suppress(ray.exceptions.ActorHandleNotFoundError):  # its run has just ended
        worker.core_worker.kill_actor(ray.ActorID.from_hex(actor_id), True)
    remove_placement_group(waits_for)


def _placement_groups() -> Iterator[PlacementGroupTableData]:
    """The placement groups that actors of this job have created and not removed."""
    job = ray.get_runtime_context().get_job_id()
    driver = ray.ActorID.nil().binary()  # of the placement groups of Ray Tune
    for data in state._connect_and_get_accessor().get_placement_group_table():
        found = PlacementGroupTableData.FromString(data)
        is_an_actors = found.creator_job_id.hex() == job and found.creator_actor_id not in (b"", driver)
        if is_an_actors and found.state != found.REMOVED:
            yield found


def _handle(group: PlacementGroupTableData) -> PlacementGroup:
    return PlacementGroup(ray.PlacementGroupID(group.placement_group_id))


def node_address() -> str:
    """Address of the node this process runs on, without a running driver."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
