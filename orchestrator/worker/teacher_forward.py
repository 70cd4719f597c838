"""A cohort's frozen teacher in a worker: loaded once, asked once for each batch, or not even that."""

from __future__ import annotations

from collections.abc import Set
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from distill.data.stream import HostBatch
from distill.models import ModelInfo, Output, SegmentationModel
from distill.models.output import OutputMaps
from distill.models.teachers import TeacherNetwork
from distill.teacher_output_cache import TeacherOutputCache
from distill.training import teacher_output
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.plan import Teacher, teacher_weights
from orchestrator.worker.checkpoint_manager import load_weights
from orchestrator.worker.main import CohortJob


class TeacherForward:
    """The teacher, on the worker's device; with `operation.teacher_outputs` what it said before is read.

    Args:
        job: the cohort's work. teacher: the cohort's. ledger: the run's. device: the worker's.
        loaded: the teacher, where this worker has it already; else it is loaded.
    """

    def __init__(
        self,
        job: CohortJob,
        teacher: Teacher,
        ledger: Ledger,
        device: torch.device,
        loaded: TeacherNetwork | None,
    ) -> None:
        path = teacher_weights(teacher)
        self._precision = job.cohort.recipe.precision
        if loaded is None:
            loaded = load_weights(ledger, path, teacher.sha256, device)
        self._model = loaded
        self._model.eval().requires_grad_(False)
        # Faster so on a CPU (docs/performance.md), whatever the recipe has for students. A program may count on its layout.
        channels_last = device.type == "cpu" and isinstance(self._model, SegmentationModel)
        if channels_last:
            self._model.to(memory_format=torch.channels_last)
        self._layout = torch.channels_last if job.cohort.recipe.channels_last else torch.contiguous_format
        self._kept: TeacherOutputCache | None = None
        choice = job.operation.teacher_outputs
        if choice is not None:
            self._kept = TeacherOutputCache(
                Path(choice.folder).expanduser(),
                int(choice.gigabytes * 10**9),
                teacher=ledger.sha256(path),
                precision=self._precision,
                layout="channels last" if channels_last else "as it was loaded",
                device=device,
            )

    @property
    def info(self) -> ModelInfo:
        """What a method may know of the teacher beforehand."""
        return self._model.info

    def computed(self, images: Tensor) -> Output:
        """What the teacher says of these pictures."""
        return teacher_output(self._model, images, self._precision)

    def maps(self, host: HostBatch, images: Tensor, needs: Set[str]) -> OutputMaps:
        """The parts of the teacher's output for a batch that the methods read.

        Args:
            host: the batch as it came out of the stream. images: the same, as networks see it.
            needs: which parts of the output the methods read.
        """
        compute = partial(self._compute_maps, images, needs)
        return compute() if self._kept is None else self._kept.maps(host, images, needs, compute)

    def _compute_maps(self, images: Tensor, needs: Set[str]) -> OutputMaps:
        """The maps in the memory layout of the students' own maps: losses over mixed layouts are slow."""
        maps = self.computed(images).maps(needs)
        return {part: [m.contiguous(memory_format=self._layout) for m in maps[part]] for part in maps}

    def take_saved(self) -> float:
        """Seconds of computing that reading has saved since the last time: alone a student would pay for them."""
        if self._kept is None:
            return 0.0
        saved, self._kept.saved_seconds = self._kept.saved_seconds, 0.0
        return saved

    def close(self) -> None:
        """Waits until what is to be kept is written."""
        if self._kept is not None:
            self._kept.close()
