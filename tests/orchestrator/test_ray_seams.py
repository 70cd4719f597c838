"""What is spared by reaching behind Ray's public face: without these tests a new Ray would take it away unnoticed."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import ray.train.torch
from ray.tune.execution.tune_controller import TrialRunnerWrapper, TuneController
from ray.tune.utils.object_cache import _ObjectCache

from orchestrator.search import _PLACE, Desks, WaveHalving
from orchestrator.trainer import CohortTrainer


def test_a_cohort_starts_without_the_helpers_that_it_never_calls() -> None:
    def names(trainer: object) -> set[str]:
        return {type(callback).__name__ for callback in trainer._create_default_callbacks()}

    spared = names(ray.train.torch.TorchTrainer(print)) - names(CohortTrainer(print))
    assert spared == {"DatasetsCallback", "PlacementGroupCleanerCallback"}


def test_tune_keeps_the_processes_of_ended_trials_once_a_trial_was_suggested() -> None:
    assert "self._actor_cache = _ObjectCache(" in inspect.getsource(TuneController.__init__)
    store = _ObjectCache()
    controller = TrialRunnerWrapper(SimpleNamespace(_actor_cache=store), trial_executor=None)
    kept = [store.cache_object(_PLACE, number) for number in range(3)]
    assert kept == [True, False, False]  # by itself: one, whatever may follow
    scheduler = WaveHalving(Desks(None), print)
    for _ in range(2):
        scheduler.on_trial_add(controller, None)
    assert all(store.cache_object(_PLACE, number) for number in range(3, 20))
