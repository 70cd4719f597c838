"""The frozen teacher of a cohort in a worker: loaded once, run once for each batch, or read from the output cache."""

from __future__ import annotations

from collections.abc import Set
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from distill.data.stream import HostBatch
from distill.device_errors import is_out_of_memory, release_frames
from distill.device_memory import free_memory
from distill.models import ModelInfo, Output, SegmentationModel
from distill.models.output import MapName, OutputMaps
from distill.models.teachers import TeacherNetwork
from distill.teacher_output_cache import TeacherOutputCache
from distill.training import cast_weights, teacher_output
from orchestrator.ledger.tables import Ledger
from orchestrator.ledger.weights import load_saved_model, teacher_weights
from orchestrator.planning.planned_models import Teacher
from orchestrator.protocol import CohortJob


class TeacherForward:
    """The teacher on the worker's device. With `operation.teacher_outputs` its earlier outputs are read from a disk cache.

    Args:
        job: the cohort.
        teacher: the cohort's.
        ledger: the run's.
        device: the worker's.
        loaded: the teacher's network if this worker has it already.
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
        self._model = load_saved_model(ledger, path, teacher.sha256, device) if loaded is None else loaded
        self._model.eval().requires_grad_(False)
        # Faster on a CPU (docs/performance.md), whatever the recipe says for students. A program may rely on its layout.
        is_ours = isinstance(self._model, SegmentationModel)
        channels_last = is_ours and (device.type == "cpu" or job.cohort.recipe.channels_last)
        if channels_last:
            self._model.to(memory_format=torch.channels_last)
        if is_ours:
            cast_weights(self._model, self._precision)
        self._layout = torch.channels_last if job.cohort.recipe.channels_last else torch.contiguous_format
        self._may_divide = False
        self._parts = 1
        self._cache: TeacherOutputCache | None = None
        settings = job.operation.teacher_outputs
        if settings is not None:
            self._cache = TeacherOutputCache(
                Path(settings.folder).expanduser(),
                int(settings.gigabytes * 10**9),
                teacher=ledger.sha256(path),
                precision=self._precision,
                layout="channels last" if channels_last else "as it was loaded",
                device=device,
            )

    @property
    def info(self) -> ModelInfo:
        """What a method may know of the teacher before training."""
        return self._model.info

    def forward(self, images: Tensor) -> Output:
        """The teacher's whole output for normalised images, `B×3×H×W`."""
        return teacher_output(self._model, images, self._precision)

    def divide(self, allowed: bool) -> None:
        """Whether a pass that runs out of memory is tried again in smaller parts of the batch."""
        self._may_divide = allowed
        self._parts = self._parts if allowed else 1

    def maps(self, host: HostBatch, images: Tensor, needs: Set[MapName]) -> OutputMaps:
        """The maps of the teacher's output for a batch that methods read, computed or from the cache.

        Args:
            host: the batch as the stream has it.
            images: the same, normalised.
            needs: names of those maps.
        """
        compute = partial(self._compute_maps, images, needs)
        return compute() if self._cache is None else self._cache.maps(host, images, needs, compute)

    def _compute_maps(self, images: Tensor, needs: Set[MapName]) -> OutputMaps:
        """The maps in the memory format of the students' maps: losses of mixed formats are slow."""
        while True:
            try:
                passes = [self.forward(piece).maps(needs) for piece in images.chunk(self._parts)]
                return {
                    name: (
                        first if len(passes) == 1 else torch.cat([maps[name] for maps in passes])
                    ).contiguous(memory_format=self._layout)
                    for name, first in passes[0].items()
                }
            except Exception as error:
                if not (is_out_of_memory(error) and self._may_divide and self._parts < len(images)):
                    raise
                release_frames(error)
            passes = []
            free_memory(images.device)
            self._parts *= 2

    def take_saved_seconds(self) -> float:
        """Seconds of teacher passes saved by the cache since the last call. A student alone would pay for them."""
        if self._cache is None:
            return 0.0
        saved, self._cache.saved_seconds = self._cache.saved_seconds, 0.0
        return saved

    def close(self) -> None:
        """Finish the writes to the teacher-output cache."""
        if self._cache is not None:
            self._cache.close()
