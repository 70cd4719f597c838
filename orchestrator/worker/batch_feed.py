"""One batch, and one teacher pass, for all students of a cohort."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from distill.data.sample import Role
from distill.data.stream import HostBatch, stream
from distill.device_errors import is_out_of_memory, release_frames
from distill.device_memory import tried_again
from distill.models import ModelInfo, Output
from distill.models.output import MAP_NAMES, MapName, OutputMaps
from distill.normalisation import normalise
from distill.recipe import digest
from distill.training import Batch
from orchestrator.ledger.tables import Ledger
from orchestrator.ledger.weights import teacher_weights
from orchestrator.protocol import SKIPPED_PICTURES, CohortJob
from orchestrator.worker.carried_teacher import CarriedTeacher
from orchestrator.worker.data_parallel import MemoryLayout, Workers
from orchestrator.worker.student_placement import Placement
from orchestrator.worker.teacher_forward import TeacherForward
from orchestrator.worker.timer import Timer
from orchestrator.worker.watchdog import Watchdog


class TeacherBatch(NamedTuple):
    """A batch on the device with the teacher's maps.

    Attributes:
        host: pictures, labels and picture indices as the stream has them, on the device.
        images_b3hw: the pictures, normalised.
        maps: the teacher's maps by name; empty if no student reads any.
    """

    host: list[Tensor]
    images_b3hw: Tensor
    maps: OutputMaps


def _before_the_watchdog(limit_seconds: float | None) -> float | None:
    """Time for loader processes: shorter than a step's, so that their error with its cause comes before the watchdog."""
    return None if limit_seconds is None else 0.9 * limit_seconds


class BatchFeed:
    """A worker's data and teacher.

    Args:
        job: the cohort.
        workers: all workers of the cohort.
        placement: of the students.
        ledger: the run's.
        watchdog: this worker's.
        carried: the teacher that this worker has from the cohort before.
    """

    def __init__(
        self,
        job: CohortJob,
        workers: Workers,
        placement: Placement,
        ledger: Ledger,
        watchdog: Watchdog,
        carried: CarriedTeacher,
    ) -> None:
        self._job = job
        self._ledger = ledger
        self._recipe = job.cohort.recipe
        self.workers = workers
        self.placement = placement
        self.watchdog = watchdog
        teacher = job.cohort.teacher
        self.train = job.dataset("train", "teacher" if teacher is None else "student")
        loaded = carried.take(None if teacher is None else teacher_weights(teacher))
        self._teacher = (
            None if teacher is None else TeacherForward(job, teacher, ledger, workers.device, loaded)
        )

    @property
    def teacher_info(self) -> ModelInfo | None:
        """What a method may know of the teacher before training; None without a teacher."""
        return None if self._teacher is None else self._teacher.info

    def divide_teacher_passes(self, allowed: bool) -> None:
        """Whether a teacher pass that runs out of memory is tried in parts: what else is on the device has left it."""
        if self._teacher is not None:
            self._teacher.divide(allowed)

    def take_saved_seconds(self) -> float:
        """Seconds of teacher passes that the output cache has saved since the last call."""
        return 0.0 if self._teacher is None else self._teacher.take_saved_seconds()

    def close(self) -> None:
        """Finish the writes to the teacher-output cache."""
        if self._teacher is not None:
            self._teacher.close()

    def host_batches(self, seed: int, start: int) -> Iterator[HostBatch]:
        """The stream from step `start` on: this worker's share of every batch, or every n-th batch whole."""
        whole = self.placement.is_partitioned
        rank, size = self.workers.rank, self.workers.world_size
        return stream(
            self.train,
            self._recipe.augmentation,
            batch_size=self._recipe.batch_size,
            seed=seed,
            start_step=start + rank if whole else start,
            every=size if whole else 1,
            rank=0 if whole else rank,
            world_size=1 if whole else size,
            loader_workers=self._job.operation.loader_workers,
            timeout_seconds=_before_the_watchdog(self._job.operation.step_timeout_seconds),
            on_skipped=self._note_skipped,
        )

    def teacher_batch(self, hosts: Iterator[HostBatch], needs: Set[MapName], timer: Timer) -> TeacherBatch:
        """The next batch of a stream, with the teacher's maps.

        Args:
            hosts: from `host_batches`.
            needs: maps of the teacher's output that a student of any worker reads.
            timer: counts the time as `data` and `teacher`.
        """
        with timer.measure("data"):
            host = next(hosts)
        return tried_again(self.workers.device, partial(self._on_device, host, needs, timer))

    def _on_device(self, host: HostBatch, needs: Set[MapName], timer: Timer) -> TeacherBatch:
        with timer.measure("data"):
            moved = [
                self.workers.to_device(tensor) for tensor in (host.images_b3hw, host.labels_bhw, host.index)
            ]
            images = self.normalised(moved[0])
        if self._teacher is None or not needs:
            return TeacherBatch(moved, images, {})
        with timer.measure("teacher"):
            return TeacherBatch(moved, images, self._teacher.maps(host, images, needs))

    def student_batch(self, batch: TeacherBatch) -> Batch:
        """The batch as students get it."""
        (_, labels, index), images, maps = batch
        output = Output.from_maps(maps) if maps else None
        return Batch.shared(images, labels.long(), index, output, self.placement.workers.reduce)

    def without_batch(self) -> None:
        """Take part in the collectives of `student_batch` without a batch."""
        if (reduce := self.placement.workers.reduce) is not None:
            reduce(torch.zeros((), device=self.workers.device))()

    def preparation_batches(self, role: Role) -> Iterator[tuple[Output, Tensor]]:
        """Teacher outputs and labels of whole batches, the same on every worker and in every wave.

        Args:
            role: whose training data; only generated scenes have another set for teachers.
        """
        assert self._teacher is not None  # only methods with a teacher prepare anything
        for host in stream(
            self.train if role == "student" else self._job.dataset("train", role),
            self._recipe.augmentation,
            batch_size=self._recipe.batch_size,
            seed=0,
            on_skipped=self._note_skipped,
        ):
            self.watchdog.heartbeat()
            images = self.normalised(self.workers.to_device(host.images_b3hw))
            yield self._teacher.forward(images), self.workers.to_device(host.labels_bhw).long()

    def normalised(self, pictures_b3hw: Tensor) -> Tensor:
        """Pictures as networks see them, in the recipe's memory format."""
        images = normalise(pictures_b3hw)
        if self._recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def _note_skipped(self, message: str) -> None:
        """Write a note on a picture that cannot be read, for the summary of the sweep."""
        self._ledger.write_bytes(f"{SKIPPED_PICTURES}/{digest(message)}.txt", message.encode())


class SharedBatches:
    """The batches of a stream from step `start`: each worker gets its share of every batch."""

    def __init__(self, feed: BatchFeed, seed: int, start: int) -> None:
        self._feed = feed
        self._hosts = feed.host_batches(seed, start)

    def next(self, needs: Set[MapName], timer: Timer) -> Batch | Exception:
        """The next batch, or the error of a worker without room for it or for the teacher's pass.

        See `BatchFeed.teacher_batch`.
        """
        try:
            batch = self._feed.teacher_batch(self._hosts, needs, timer)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            release_frames(error)
            self._feed.without_batch()
            return error
        return self._feed.student_batch(batch)


class BroadcastBatches:
    """The batches of a stream from step `start` up to `stop`: every worker gets each batch whole.

    Of n workers, each loads every n-th batch and runs the teacher on it, all at the same time. Then the workers broadcast
    their batches in the order of ranks, and after each broadcast all students train one step. Each student gets exactly
    the batches and teacher outputs that a single worker would give it.
    """

    def __init__(self, feed: BatchFeed, seed: int, start: int, stop: int) -> None:
        self._feed = feed
        self._workers = feed.workers
        self._hosts = feed.host_batches(seed, start)
        self._left = stop - start
        self._source = 0
        self._own: TeacherBatch | None = None
        self._layouts: dict[str, list[MemoryLayout]] = {}

    def next(self, needs: Set[MapName], timer: Timer) -> Batch:
        """The next batch; all workers call this together. The timer includes the wait for other workers."""
        if self._source == 0:
            has_one = self._workers.rank < self._left
            self._own = self._feed.teacher_batch(self._hosts, needs, timer) if has_one else None
        batch = self._broadcast(self._source, needs, timer)
        self._source = (self._source + 1) % self._workers.world_size
        self._left -= 1
        return self._feed.student_batch(batch)

    def _broadcast(self, source: int, needs: Set[MapName], timer: Timer) -> TeacherBatch:
        own = self._own if self._workers.rank == source else None
        with timer.measure("data"):
            host = self._broadcast_tensors("batch", None if own is None else own.host, source)
            images = self._feed.normalised(host[0]) if own is None else own.images_b3hw
        maps: OutputMaps = {}
        if needs:
            with timer.measure("teacher"):
                for name in MAP_NAMES:
                    if name in needs:
                        tensors = None if own is None else [own.maps[name]]
                        (maps[name],) = self._broadcast_tensors(name, tensors, source)
        return TeacherBatch(host, images, maps)

    def _broadcast_tensors(self, what: str, tensors: Sequence[Tensor] | None, source: int) -> list[Tensor]:
        """Tensors of one worker, on all; their layouts are the same in every batch and are sent with the first."""
        with self._feed.watchdog.waiting():
            if what not in self._layouts:
                layouts = None if tensors is None else [MemoryLayout.of(tensor) for tensor in tensors]
                self._layouts[what] = self._workers.broadcast_object(layouts, source=source)
            return self._workers.broadcast_tensors(tensors, self._layouts[what], source=source)


StudentBatches = SharedBatches | BroadcastBatches


def student_batches(feed: BatchFeed, seed: int, start: int, stop: int) -> StudentBatches:
    """The batches of a stream from step `start` up to `stop`, as the placement of the students asks for."""
    if feed.placement.is_partitioned:
        return BroadcastBatches(feed, seed, start, stop)
    return SharedBatches(feed, seed, start)
