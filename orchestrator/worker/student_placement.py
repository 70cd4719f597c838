"""Which worker of a cohort has which students. A student's numbers do not depend on it.

With `compute.parallelism: batches` every worker has all students and a share of each batch (`ReplicatedStudents`). With
`students` each student is on one worker, with whole batches (`PartitionedStudents`). Both have the same methods, so the
training loop does not know which it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from distill.models.output import MapName
from orchestrator.planning.config import ComputeConfig
from orchestrator.planning.plan import Cohort
from orchestrator.worker.data_parallel import Workers
from orchestrator.worker.device_slots import DeviceSlots
from orchestrator.worker.student_slot import StudentSlot
from orchestrator.worker.watchdog import Watchdog

T = TypeVar("T")


class StudentMove(NamedTuple):
    """A student moves from one worker to another."""

    trial_id: str
    source: int
    target: int


def balancing_moves(held: Sequence[Sequence[str]]) -> list[StudentMove]:
    """The fewest moves after which no worker has two students more than another.

    Args:
        held: trial ids by worker.
    """
    now = [list(trial_ids) for trial_ids in held]
    moves: list[StudentMove] = []
    while True:
        source = max(range(len(now)), key=lambda rank: (len(now[rank]), -rank))
        target = min(range(len(now)), key=lambda rank: (len(now[rank]), rank))
        if len(now[source]) - len(now[target]) < 2:
            return moves
        moves.append(StudentMove(now[source].pop(), source, target))
        now[target].append(moves[-1].trial_id)


def workers_of_a_student(workers: Workers, compute: ComputeConfig, cohort: Cohort) -> Workers:
    """The workers that train one student together: all of the cohort, or this one alone."""
    together = compute.workers_of_a_student(has_teacher=cohort.teacher is not None)
    return workers.alone_view() if together < workers.world_size else workers


class ReplicatedStudents:
    """Every worker has all students. All have the same state, so no collective is needed.

    Attributes:
        workers: the workers that train a student together.
        is_partitioned: whether students are on one worker each.
        sharers: number of workers that share a batch and a teacher pass, but not their students.
    """

    is_partitioned = False
    sharers = 1

    def __init__(self, workers: Workers) -> None:
        self.workers = workers

    def own(self, slots: Sequence[StudentSlot]) -> list[StudentSlot]:
        """This worker's slots of a wave."""
        return list(slots)

    def total(self, number: float) -> float:
        """Sum over workers of a number about their own students."""
        return number

    def trials_by_worker(self, trial_ids: Sequence[str]) -> list[list[str]]:
        """The trials of each worker; one list if all have the same."""
        return [list(trial_ids)]

    def most(self, number: int) -> int:
        """Largest value on any worker."""
        return number

    def earliest(self, step: int | None) -> int | None:
        """Smallest step of any worker; None if no worker has one."""
        return step

    def needs(self, slots: Sequence[StudentSlot]) -> frozenset[MapName] | None:
        """The teacher's maps that the losses of any worker's students read; None without students."""
        return _union(slot.needs for slot in slots) if slots else None

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """One worker after the other while positions are announced, as the coordinator knows one position."""
        yield

    def rebalance(self, slots: DeviceSlots) -> None:
        """Even out the number of students between workers."""


class PartitionedStudents:
    """Each student is on one worker. Workers run collectives for every batch, which one of them broadcasts, and at rungs.

    Args:
        all_workers: all workers of the cohort.
        workers: this worker alone.
        watchdog: this worker's; waiting for another worker is no hang.
    """

    is_partitioned = True

    def __init__(self, all_workers: Workers, workers: Workers, watchdog: Watchdog) -> None:
        self.workers = workers
        self.sharers = all_workers.world_size
        self._all = all_workers
        self._watchdog = watchdog

    def own(self, slots: Sequence[StudentSlot]) -> list[StudentSlot]:
        """Every n-th slot, as neighbours tend to cost the same. Rank 0 also has those that have ended."""
        training = [slot for slot in slots if not slot.ended]
        ended = [slot for slot in slots if slot.ended and self._all.is_rank_0]
        return ended + training[self._all.rank :: self._all.world_size]

    def total(self, number: float) -> float:
        """See `ReplicatedStudents.total`."""
        return math.fsum(self._gather(number))

    def trials_by_worker(self, trial_ids: Sequence[str]) -> list[list[str]]:
        """See `ReplicatedStudents.trials_by_worker`."""
        return self._gather(list(trial_ids))

    def most(self, number: int) -> int:
        """See `ReplicatedStudents.most`."""
        return max(self._gather(number))

    def earliest(self, step: int | None) -> int | None:
        """See `ReplicatedStudents.earliest`. A rank with no students at this step still takes part in collectives."""
        return min((each for each in self._gather(step) if each is not None), default=None)

    def needs(self, slots: Sequence[StudentSlot]) -> frozenset[MapName] | None:
        """See `ReplicatedStudents.needs`."""
        own = _union(slot.needs for slot in slots) if slots else None
        needs = [each for each in self._gather(own) if each is not None]
        return _union(needs) if needs else None

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """See `ReplicatedStudents.in_turn`."""
        careful = self._watchdog.careful
        if careful:
            self._wait_turns(self._all.rank)
        yield
        if careful:
            self._wait_turns(self._all.world_size - self._all.rank)

    def rebalance(self, slots: DeviceSlots) -> None:
        """Move students, through the hosts, until no worker has two more than another."""
        by_trial = {slot.trial.trial_id: slot for slot in slots.training()}
        for move in balancing_moves(self.trials_by_worker(list(by_trial))):
            if self._all.rank == move.source:
                leaving = by_trial[move.trial_id]
                leaving.move_to_host()
                slots.slots.remove(leaving)
                self._all.send_object(leaving, move.target)
            elif self._all.rank == move.target:
                slots.slots.append(self._all.receive_object(move.source))

    def _gather(self, value: T) -> list[T]:
        with self._watchdog.waiting():
            return self._all.gather(value)

    def _wait_turns(self, turns: int) -> None:
        self._watchdog.rest()
        for _ in range(turns):
            self._all.gather(None)


Placement = ReplicatedStudents | PartitionedStudents


def place_students(all_workers: Workers, workers: Workers, watchdog: Watchdog) -> Placement:
    """The placement of a cohort's students.

    Args:
        all_workers: all workers of the cohort.
        workers: the workers that train one student together, from `workers_of_a_student`.
        watchdog: this worker's.
    """
    if workers.world_size < all_workers.world_size:
        return PartitionedStudents(all_workers, workers, watchdog)
    return ReplicatedStudents(workers)


def _union(needs: Iterable[frozenset[MapName]]) -> frozenset[MapName]:
    return frozenset[MapName]().union(*needs)
