"""Canary tests: each private name of Ray that is used exists in the installed Ray, with its meaning in Ray 2.60.0.

A failure names what a new Ray has changed. Change `orchestrator/cluster/ray_private.py` accordingly.
"""

from __future__ import annotations

import fnmatch
import inspect

import ray
import ray._private.worker
import ray.train.torch
from ray import _raylet
from ray._private import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.train.v2.api import data_parallel_trainer
from ray.tune.execution import experiment_state, tune_controller

from orchestrator.cluster import ray_private

SEEN_IN = "seen in Ray 2.60.0, this is " + ray.__version__


def test_the_trainer_starts_without_the_two_helpers_only() -> None:
    def names(trainer: object) -> set[str]:
        return {type(callback).__name__ for callback in trainer._create_default_callbacks()}

    left_out = names(ray.train.torch.TorchTrainer(print)) - names(ray_private.WorkerGroupTrainer(print))
    assert left_out == ray_private.UNUSED_CALLBACKS, SEEN_IN


def test_the_trainer_is_ray_trains_own_and_creates_its_callbacks_by_that_method() -> None:
    assert ray.train.v2.api.data_parallel_trainer is data_parallel_trainer
    assert issubclass(ray.train.torch.TorchTrainer, data_parallel_trainer.DataParallelTrainer), SEEN_IN
    assert callable(data_parallel_trainer.DataParallelTrainer._create_default_callbacks), SEEN_IN


def test_the_daemons_messages_go_through_the_function_that_is_replaced() -> None:
    printing = inspect.signature(ray._private.worker.print_to_stdstream)
    assert list(printing.parameters) == ["data", "ignore_prefix"], SEEN_IN
    assert "print_to_stdstream" in inspect.getsource(ray._private.worker), SEEN_IN


def test_the_authentication_mode_can_be_read() -> None:
    assert hasattr(_raylet.AuthenticationMode, "TOKEN"), SEEN_IN
    assert ray_private.cluster_asks_for_token() in (True, False)


def test_init_takes_the_address_to_advertise() -> None:
    assert '"_node_ip_address"' in inspect.getsource(ray.init), SEEN_IN
    assert ray_private.local_address_settings("127.0.0.2") == {"_node_ip_address": "127.0.0.2"}


def test_tune_writes_its_snapshots_by_the_method_that_is_switched_off() -> None:
    saving = inspect.getsource(experiment_state._ExperimentCheckpointManager)
    assert "def sync_up_experiment_state(" in saving, SEEN_IN
    assert "self._storage.experiment_fs_path" in saving, SEEN_IN
    assert fnmatch.fnmatch(
        "experiment_state-empty.json", tune_controller.TuneController.CKPT_FILE_TMPL.format("*")
    )
    assert "self._checkpoint_manager.sync_up_experiment_state(" in inspect.getsource(tune_controller), SEEN_IN


def test_a_placement_group_says_whether_its_creator_is_alive() -> None:
    fields = {field.name for field in PlacementGroupTableData.DESCRIPTOR.fields}
    assert {"placement_group_id", "creator_actor_dead", "creator_job_id", "state"} <= fields, SEEN_IN
    assert "get_placement_group_table()" in inspect.getsource(state.GlobalState), SEEN_IN
    assert callable(state.state._connect_and_get_accessor), SEEN_IN


def test_ray_replaces_the_handler_of_sigterm_by_the_function_that_is_switched_off() -> None:
    for module in (ray._private.worker, ray._private.node):
        assert "ray._private.utils.set_sigterm_handler(" in inspect.getsource(module), SEEN_IN


def test_the_address_of_this_node_is_an_address() -> None:
    assert ray_private.node_address().count(".") == 3 or ":" in ray_private.node_address()
