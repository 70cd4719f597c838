"""Canary tests: each private name of Ray that is used exists in the installed Ray, with its meaning in Ray 2.60.0.

A failure names the installed Ray and the name that it has changed. Change `orchestrator/cluster/ray_private.py` accordingly.
"""

from __future__ import annotations

import ast
import fnmatch
import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ray
import ray.train.torch

SOURCE = Path(__file__).parents[3] / "orchestrator" / "cluster" / "ray_private.py"
PRINTING = "ray._private.worker.print_to_stdstream"
SIGTERM = "ray._private.utils.set_sigterm_handler"
TOKEN_MODE = "ray._raylet.AuthenticationMode.TOKEN"
CALLBACKS = "ray.train.v2.api.data_parallel_trainer.DataParallelTrainer._create_default_callbacks"
SNAPSHOT = "ray.tune.execution.experiment_state._ExperimentCheckpointManager.sync_up_experiment_state"
SNAPSHOT_FILE = "ray.tune.execution.tune_controller.TuneController.CKPT_FILE_TMPL"
GROUP_ROW = "ray.core.generated.gcs_pb2.PlacementGroupTableData"
KILL = "ray._raylet.CoreWorker.kill_actor"
ACCESSOR = "ray._private.state.state._connect_and_get_accessor"
DAEMONS = tuple(
    f"ray._private.node.Node.{name}" for name in ("start_monitor", "start_api_server", "start_log_monitor")
)
NAMES = (
    PRINTING,
    SIGTERM,
    TOKEN_MODE,
    CALLBACKS,
    SNAPSHOT,
    SNAPSHOT_FILE,
    GROUP_ROW,
    ACCESSOR,
    *DAEMONS,
    KILL,
    "ray._raylet.get_authentication_mode",
    "ray.util.get_node_ip_address",
    "ray.util.placement_group.PlacementGroup",
    "ray.util.placement_group.remove_placement_group",
)
"""Every private or undocumented name that `ray_private.py` uses."""


def moved(name: str, what: str = "is not there") -> str:
    return f"Ray {ray.__version__}: {name} {what}; it was seen in Ray 2.60.0"


def find(name: str) -> Any:
    """What has this dotted name in the installed Ray."""
    parts, found = name.split("."), None
    for number in range(1, len(parts) + 1):
        path = ".".join(parts[:number])
        try:
            found = importlib.import_module(
                path
            )  # before the attribute: a function may have its module's name
        except ImportError:
            if not hasattr(found, parts[number - 1]):
                pytest.fail(moved(path))
            found = getattr(found, parts[number - 1])
    return found


@pytest.fixture
def ray_private() -> ModuleType:
    return importlib.import_module("orchestrator.cluster.ray_private")


@pytest.mark.parametrize("name", NAMES)
def test_the_installed_ray_has_the_name(name: str) -> None:
    find(name)


def test_a_name_that_ray_does_not_have_is_in_the_message_with_rays_version() -> None:
    with pytest.raises(pytest.fail.Exception, match=rf"Ray {ray.__version__}: ray\._raylet\.gone is not"):
        find("ray._raylet.gone.deeper")


def test_every_name_that_is_imported_from_ray_has_a_canary() -> None:
    imports = [node for node in ast.walk(ast.parse(SOURCE.read_text())) if isinstance(node, ast.ImportFrom)]
    used = [
        f"{node.module}.{each.name}"
        for node in imports
        if node.module and node.module.split(".")[0] == "ray"
        for each in node.names
    ]
    assert used
    assert [name for name in used if not any(f"{known}.".startswith(f"{name}.") for known in NAMES)] == []


def test_the_trainer_starts_without_the_two_helpers_only(ray_private: ModuleType) -> None:
    def names(trainer: Any) -> set[str]:
        return {type(callback).__name__ for callback in trainer._create_default_callbacks()}

    left_out = names(ray.train.torch.TorchTrainer(print)) - names(ray_private.WorkerGroupTrainer(print))
    assert left_out == ray_private.UNUSED_CALLBACKS, moved(CALLBACKS, "gives other callbacks")


def test_the_trainer_is_ray_trains_own() -> None:
    base = find(CALLBACKS.rpartition(".")[0])
    assert issubclass(ray.train.torch.TorchTrainer, base), moved(CALLBACKS, "is not a method of TorchTrainer")


def test_the_daemons_messages_go_through_the_function_that_is_replaced() -> None:
    printing = list(inspect.signature(find(PRINTING)).parameters)
    assert printing == ["data", "ignore_prefix"], moved(PRINTING, f"takes {printing}")
    assert "print_to_stdstream" in inspect.getsource(find("ray._private.worker")), moved(
        PRINTING, "is not called"
    )


def test_the_authentication_mode_can_be_read(ray_private: ModuleType) -> None:
    assert ray_private.cluster_asks_for_token() in (True, False)


@pytest.mark.parametrize("prints_logs", [False, True])
def test_a_head_node_starts_its_daemons_by_the_methods_that_are_replaced(
    ray_private: ModuleType, prints_logs: bool
) -> None:
    node = ray._private.node.Node
    starts = inspect.getsource(node.start_head_processes) + inspect.getsource(node.start_ray_processes)
    own = {name: find(name) for name in DAEMONS}
    for name in DAEMONS:
        assert f"self.{name.rpartition('.')[2]}(" in starts, moved(name, "does not start the daemon")
    with ray_private.few_daemons(prints_logs=prints_logs):
        replaced = {name for name in DAEMONS if find(name) is not own[name]}
    assert replaced == set(DAEMONS) - ({DAEMONS[2]} if prints_logs else set())
    assert {name: find(name) for name in DAEMONS} == own


def test_init_takes_the_address_to_advertise(ray_private: ModuleType) -> None:
    assert '"_node_ip_address"' in inspect.getsource(ray.init), moved("_node_ip_address of ray.init")
    assert ray_private.local_address_settings("127.0.0.2") == {"_node_ip_address": "127.0.0.2"}


def test_tune_writes_its_snapshots_by_the_method_that_is_switched_off() -> None:
    saving = inspect.getsource(find(SNAPSHOT.rpartition(".")[0]))
    assert "self._storage.experiment_fs_path" in saving, moved(SNAPSHOT, "writes into another folder")
    assert fnmatch.fnmatch("experiment_state-empty.json", find(SNAPSHOT_FILE).format("*"))
    controller = inspect.getsource(find("ray.tune.execution.tune_controller"))
    assert "self._checkpoint_manager.sync_up_experiment_state(" in controller, moved(
        SNAPSHOT, "is not called"
    )


def test_a_placement_group_says_whether_its_creator_is_alive() -> None:
    fields = {field.name for field in find(GROUP_ROW).DESCRIPTOR.fields}
    used = {"placement_group_id", "creator_actor_id", "creator_actor_dead", "creator_job_id", "state"}
    assert used <= fields, moved(GROUP_ROW, f"lacks {used - fields}")
    states = set(find(GROUP_ROW).PlacementGroupState.keys())
    assert {"PENDING", "RESCHEDULING", "REMOVED"} <= states, moved(GROUP_ROW, f"has the states {states}")
    table = inspect.getsource(find("ray._private.state.GlobalState"))
    assert "get_placement_group_table()" in table, moved(ACCESSOR, "has no table of placement groups")


def test_an_actor_is_killed_by_the_method_that_rays_own_kill_uses() -> None:
    assert "worker.core_worker.kill_actor(actor._ray_actor_id, no_restart)" in inspect.getsource(ray.kill), (
        moved(KILL, "is not what ray.kill calls")
    )


def test_ray_replaces_the_handler_of_sigterm_by_the_function_that_is_switched_off() -> None:
    for module in ("ray._private.worker", "ray._private.node"):
        called = "ray._private.utils.set_sigterm_handler(" in inspect.getsource(find(module))
        assert called, moved(SIGTERM, f"is not called by {module}")


def test_the_address_of_this_node_is_an_address(ray_private: ModuleType) -> None:
    assert ray_private.node_address().count(".") == 3 or ":" in ray_private.node_address()
