"""Canaries: each private name of Ray that is used exists in this Ray and means what it meant in Ray 2.60.0.

A failure names what a new Ray has moved; `orchestrator/cluster/ray_private.py` is where to follow.
"""

from __future__ import annotations

import inspect

import ray
import ray._private.worker
import ray.train.torch
from ray import _raylet
from ray._private import services
from ray.train.v2.api import data_parallel_trainer

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


def test_a_node_that_is_not_up_in_time_says_so_in_these_words() -> None:
    sources = inspect.getsource(ray._private.node) + inspect.getsource(services)
    assert ray_private.STARTUP_TIMEOUT in sources, SEEN_IN


def test_ray_replaces_the_handler_of_sigterm_by_the_function_that_is_switched_off() -> None:
    for module in (ray._private.worker, ray._private.node):
        assert "ray._private.utils.set_sigterm_handler(" in inspect.getsource(module), SEEN_IN


def test_the_address_of_this_node_is_an_address() -> None:
    assert ray_private.node_address().count(".") == 3 or ":" in ray_private.node_address()
