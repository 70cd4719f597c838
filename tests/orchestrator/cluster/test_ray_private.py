"""What is spared by reaching behind Ray's public face: without these tests a new Ray would take it away unnoticed."""

from __future__ import annotations

import ray.train.torch

from orchestrator.controller.ray_trainer import WorkerGroupTrainer


def test_a_cohort_starts_without_the_helpers_that_it_never_calls() -> None:
    def names(trainer: object) -> set[str]:
        return {type(callback).__name__ for callback in trainer._create_default_callbacks()}

    spared = names(ray.train.torch.TorchTrainer(print)) - names(WorkerGroupTrainer(print))
    assert spared == {"DatasetsCallback", "PlacementGroupCleanerCallback"}
