"""Ray's data-parallel trainer without the two helpers that a cohort never calls, each a process to start."""

from __future__ import annotations

from typing import Any

from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

# A cohort reads no Ray Data; and its placement group belongs to the driver's job, with which Ray removes it.
_UNUSED = {"DatasetsCallback", "PlacementGroupCleanerCallback"}


class WorkerGroupTrainer(DataParallelTrainer):
    """Starts a cohort's workers. Where Ray names its callbacks otherwise, it starts them all, as its own trainers do."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in _UNUSED]
