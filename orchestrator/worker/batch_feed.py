"""What the students of a cohort share in a step: the batch, and what the teacher says of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

import torch
from torch import Tensor

from distill.data.stream import HostBatch, normalise, stream
from distill.models import ModelInfo, Output
from distill.models.output import PARTS, OutputMaps
from distill.recipe import digest
from distill.training import Batch
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.plan import teacher_weights
from orchestrator.worker.data_parallel import Shape, Workers
from orchestrator.worker.main import SKIPPED_PICTURES, CarriedTeacher, CohortJob
from orchestrator.worker.student_placement import StudentPlacement
from orchestrator.worker.teacher_forward import TeacherForward
from orchestrator.worker.timer import Timer
from orchestrator.worker.watchdog import Watchdog


class TeacherBatch(NamedTuple):
    """A batch on the device and the teacher's maps of it, by part; none where nobody looks at any."""

    host: list[Tensor]
    """As it came out of the stream: pictures, labels, which pictures they are."""
    images_b3hw: Tensor
    """The pictures as networks see them."""
    maps: OutputMaps


class BatchFeed:
    """A worker's data and teacher.

    Args:
        job: the cohort's work.
        workers: all of the cohort. division: what they divide.
        ledger: the run's. attention: this worker's.
        along: what this worker has from the cohort before.
    """

    def __init__(
        self,
        job: CohortJob,
        workers: Workers,
        division: StudentPlacement,
        ledger: Ledger,
        attention: Watchdog,
        along: CarriedTeacher,
    ) -> None:
        self._job = job
        self._ledger = ledger
        self._recipe = job.cohort.recipe
        self.workers = workers
        self.division = division
        self.attention = attention
        teacher = job.cohort.teacher
        self.train = job.dataset("train", "teacher" if teacher is None else "student")
        loaded = along.take(None if teacher is None else teacher_weights(teacher))
        self._teacher = (
            None if teacher is None else TeacherForward(job, teacher, ledger, workers.device, loaded)
        )

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
        """A stream from step `start` on: this worker's shares of its batches, or whole ones, every so-many-th."""
        together = not self.division.of_students
        rank, size = self.workers.rank, self.workers.world_size
        return stream(
            self.train,
            self._recipe.augmentation,
            batch_size=self._recipe.batch_size,
            seed=seed,
            start_step=start if together else start + rank,
            every=1 if together else size,
            rank=rank if together else 0,
            world_size=size if together else 1,
            loader_workers=self._job.operation.loader_workers,
            on_skipped=self._skip,
        )

    def shown(self, hosts: Iterator[HostBatch], needs: Set[str], watch: Timer) -> TeacherBatch:
        """The next of a stream's batches, and what the teacher says of it.

        Args:
            hosts: of `hosts`.
            needs: which parts of the teacher's output somebody on any worker looks at, in the words of method cards.
            watch: adds up what `data` and `teacher` take.
        """
        with watch.measure("data"):
            host = next(hosts)
            sent = [self.workers.sent(tensor) for tensor in (host.images_b3hw, host.labels_bhw, host.index)]
            images = self.images(sent[0])
        if self._teacher is None or "teacher" not in needs:
            return TeacherBatch(sent, images, {})
        with watch.measure("teacher"):
            return TeacherBatch(sent, images, self._teacher.maps(host, images, needs))

    def batch_of(self, shown: TeacherBatch) -> Batch:
        """The same as students see it."""
        (_, labels, index), images, maps = shown
        output = Output.from_maps(maps) if maps else None
        return Batch.shared(images, labels.long(), index, output, self.division.peers.reduce)

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
            self.attention.still_there()
            images = self.images(self.workers.sent(host.images_b3hw))
            yield self._teacher.computed(images), self.workers.sent(host.labels_bhw).long()

    def images(self, pictures_b3hw: Tensor) -> Tensor:
        """Pictures as networks see them, laid out as the recipe says."""
        images = normalise(pictures_b3hw)
        if self._recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def _skip(self, message: str) -> None:
        """Notes a picture that cannot be read where the sweep finds it when it ends."""
        self._ledger.write_bytes(f"{SKIPPED_PICTURES}/{digest(message)}.txt", message.encode())


class StudentBatches:
    """The batches of a stream from step `start` up to `stop`, as a worker's students see them.

    Workers that divide batches show their students their own shares. Workers that divide students take turns: each has
    a whole batch and asks the teacher about it, all at the same time; then one after the other passes its own on, and
    all students have a step between. So students see what one worker by itself would show them, to the bit.
    """

    def __init__(self, supply: BatchFeed, seed: int, start: int, stop: int) -> None:
        self._supply = supply
        self._workers = supply.workers
        self._hosts = supply.hosts(seed, start)
        self._left = stop - start
        self._turn = 0
        self._turns = supply.workers.world_size if supply.division.of_students else 1
        self._mine: TeacherBatch | None = None
        self._shapes: dict[str, list[Shape]] = {}

    def next(self, needs: Set[str], watch: Timer) -> Batch:
        """The next batch; workers that divide students call this together.

        Args:
            needs: which parts of the teacher's output somebody on any worker looks at, in the words of method cards.
            watch: adds up what `data` and `teacher` take, waiting for other workers included.
        """
        alone = self._turns == 1
        if self._turn == 0:
            has_one = alone or self._workers.rank < self._left
            self._mine = self._supply.shown(self._hosts, needs, watch) if has_one else None
        shown = self._mine if alone else self._passed_on(self._turn, needs, watch)
        assert shown is not None  # alone there is a batch for each turn
        self._turn = (self._turn + 1) % self._turns
        self._left -= 1
        return self._supply.batch_of(shown)

    def _passed_on(self, giver: int, needs: Set[str], watch: Timer) -> TeacherBatch:
        """What the giver has."""
        mine = self._mine if self._workers.rank == giver else None
        with watch.measure("data"):
            host = self._whole("batch", None if mine is None else mine.host, giver)
            images = self._supply.images(host[0]) if mine is None else mine.images_b3hw
        maps: OutputMaps = {}
        if "teacher" in needs:
            with watch.measure("teacher"):
                for part in PARTS:
                    if part in needs:
                        maps[part] = self._whole(part, None if mine is None else mine.maps[part], giver)
        return TeacherBatch(host, images, maps)

    def _whole(self, what: str, given: Sequence[Tensor] | None, giver: int) -> list[Tensor]:
        """One worker's tensors, for all; their shapes, the same for every batch, are told with the first."""
        with self._supply.attention.waiting():
            if what not in self._shapes:
                shapes = None if given is None else [Shape.of(tensor) for tensor in given]
                self._shapes[what] = self._workers.told_by(giver, shapes)
            return self._workers.passed_on(given, self._shapes[what], giver)
