"""What the students of a cohort share in a step: the batch, and what the teacher says of it."""

from __future__ import annotations

from collections.abc import Iterator, Set

import torch
from torch import Tensor

from distill.data.stream import HostBatch, normalise, stream
from distill.models import ModelInfo, Output
from distill.recipe import digest
from distill.training import Batch
from orchestrator.attention import Attention
from orchestrator.cohort_job import SKIPPED_PICTURES, CohortJob
from orchestrator.ledger import Ledger
from orchestrator.sharing import Division
from orchestrator.stopwatch import Stopwatch
from orchestrator.teaching import Teaching
from orchestrator.workers import Workers


class Supply:
    """A worker's: its share of each batch, or, where each student has a worker to itself, all of it put together.

    Either way a worker loads its own share alone, and asks the teacher about that alone.

    Args:
        job: the cohort's work.
        workers: all of the cohort. division: what they divide.
        ledger: the run's. attention: this worker's.
    """

    def __init__(
        self, job: CohortJob, workers: Workers, division: Division, ledger: Ledger, attention: Attention
    ) -> None:
        self._job = job
        self._workers = workers
        self._division = division
        self._ledger = ledger
        self._attention = attention
        self._recipe = job.cohort.recipe
        teacher = job.cohort.teacher
        self.train = job.dataset("train", "teacher" if teacher is None else "student")
        self._teacher = None if teacher is None else Teaching(job, teacher, ledger, workers.device)

    @property
    def info(self) -> ModelInfo | None:
        """What a method may know of the teacher beforehand; None where there is none."""
        return None if self._teacher is None else self._teacher.info

    def take_saved(self) -> float:
        """Seconds of the teacher's that reading its kept outputs has saved since the last time."""
        return 0.0 if self._teacher is None else self._teacher.take_saved()

    def close(self) -> None:
        """Nothing more is asked for."""
        if self._teacher is not None:
            self._teacher.close()

    def hosts(self, seed: int, start: int) -> Iterator[HostBatch]:
        """This worker's shares of the batches of a stream, from step `start` on."""
        return stream(
            self.train,
            self._recipe.augmentation,
            batch_size=self._recipe.batch_size,
            seed=seed,
            start_step=start,
            rank=self._workers.rank,
            world_size=self._workers.world_size,
            loader_workers=self._job.operation.loader_workers,
            on_skipped=self._skip,
        )

    def next_batch(self, hosts: Iterator[HostBatch], needs: Set[str], watch: Stopwatch) -> Batch:
        """The next batch as students see it; where workers gather it, all call this together.

        Args:
            hosts: of `hosts`.
            needs: which parts of the teacher's output somebody on any worker looks at, in the words of method cards.
            watch: adds up what `data` and `teacher` take, waiting for other workers included.
        """
        with watch.measure("data"):
            host = next(hosts)
            pictures, labels = self._workers.sent(host.images_b3hw), self._workers.sent(host.labels_bhw)
            index = host.index
            size, first = len(labels), 0
            if self._division.of_students:
                first = self._workers.rank * size
                shares = (pictures, labels, self._workers.sent(index))
                with self._attention.waiting():
                    pictures, labels, index = (self._workers.whole(share) for share in shares)
            images = self._images(pictures)
        output = None
        if self._teacher is not None and "teacher" in needs:
            with watch.measure("teacher"):
                output = self._teacher.output(host, images[first : first + size], needs)
                if self._division.of_students:
                    with self._attention.waiting():
                        output = self._gathered(output, needs)
        return Batch.shared(images, labels.long(), index, output, self._division.peers.reduce)

    def _gathered(self, output: Output, needs: Set[str]) -> Output:
        """The teacher's output for the whole batch; what nobody looks at stays empty."""

        def whole(part: str, maps: Tensor) -> Tensor:
            return self._workers.whole(maps) if part in needs else maps[:0]

        first, second, third, fourth = (whole("stages", stage) for stage in output.stages)
        return Output(
            (first, second, third, fourth), whole("fused", output.fused), whole("logits", output.logits)
        )

    def teacher_batches(self) -> Iterator[tuple[Output, Tensor]]:
        """Whole batches' teacher outputs and labels, alike on every worker and in every wave."""
        assert self._teacher is not None  # only methods with a teacher prepare anything
        for host in stream(
            self.train,
            self._recipe.augmentation,
            batch_size=self._recipe.batch_size,
            seed=0,
            on_skipped=self._skip,
        ):
            self._attention.still_there()
            images = self._images(self._workers.sent(host.images_b3hw))
            yield self._teacher.computed(images), self._workers.sent(host.labels_bhw).long()

    def _images(self, pictures_b3hw: Tensor) -> Tensor:
        images = normalise(pictures_b3hw)
        if self._recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def _skip(self, message: str) -> None:
        """Notes a picture that cannot be read where the sweep finds it when it ends."""
        self._ledger.write_bytes(f"{SKIPPED_PICTURES}/{digest(message)}.txt", message.encode())
