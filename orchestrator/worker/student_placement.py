"""What a cohort's workers divide among them: each batch, or the students. A student's numbers do not depend on which
worker it lies on, so that may change whenever it pays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from orchestrator.planning.config import ComputeConfig
from orchestrator.planning.plan import Cohort
from orchestrator.worker.data_parallel import Workers
from orchestrator.worker.device_slots import DeviceSlots
from orchestrator.worker.student_slot import StudentSlot
from orchestrator.worker.watchdog import Watchdog

T = TypeVar("T")


class StudentMove(NamedTuple):
    """A student that changes from one worker to another."""

    trial_id: str
    giver: int
    taker: int


def evened_out(held: Sequence[Sequence[str]]) -> list[StudentMove]:
    """The fewest moves after which no worker has two students more than another.

    Args:
        held: trial ids by worker.
    """
    now = [list(trial_ids) for trial_ids in held]
    moves: list[StudentMove] = []
    while True:
        giver = max(range(len(now)), key=lambda rank: (len(now[rank]), -rank))
        taker = min(range(len(now)), key=lambda rank: (len(now[rank]), rank))
        if len(now[giver]) - len(now[taker]) < 2:
            return moves
        moves.append(StudentMove(now[giver].pop(), giver, taker))
        now[taker].append(moves[-1].trial_id)


def peers_of(workers: Workers, compute: ComputeConfig, cohort: Cohort) -> Workers:
    """Those who train a student together: all of a cohort's workers, or this one by itself."""
    together = compute.workers_of_a_student(taught=cohort.teacher is not None)
    return workers.by_itself() if together < workers.world_size else workers


class StudentPlacement:
    """A worker's part. Workers that divide students meet for every batch, which one of them has, and at rungs.

    Where they divide batches, all have the same students and know the same of them: then they only agree.

    Args:
        workers: all of the cohort. peers: of `peers_of`.
        attention: this worker's; waiting for another is no hang.
    """

    def __init__(self, workers: Workers, peers: Workers, attention: Watchdog) -> None:
        self.of_students = peers.alone and not workers.alone
        self.sharers = workers.world_size // peers.world_size
        """Workers that share a batch and a teacher pass, though not their students."""
        self.peers = peers
        self._workers = workers
        self._attention = attention

    def _of_each(self, value: T) -> list[T]:
        """What each worker with students of its own has; one answer where all have the same."""
        if not self.of_students:
            return [value]
        with self._attention.waiting():
            return self._workers.gathered(value)

    def mine(self, seats: Sequence[StudentSlot]) -> list[StudentSlot]:
        """This worker's of a wave: every so-many-th, as neighbours tend to cost the same. Rank 0 has what has ended, too."""
        if not self.of_students:
            return list(seats)
        training = [seat for seat in seats if not seat.ended]
        ended = [seat for seat in seats if seat.ended and self._workers.leads]
        return ended + training[self._workers.rank :: self._workers.world_size]

    def in_all(self, number: float) -> float:
        """The sum of what workers with students of their own have; what one has where all have the same."""
        return math.fsum(self._of_each(number))

    def of_all(self, trial_ids: Sequence[str]) -> list[list[str]]:
        """The trials of each worker with students of its own; one list where all have the same."""
        return self._of_each(list(trial_ids))

    def most(self, number: int) -> int:
        """The largest number that any worker has."""
        return max(self._of_each(number))

    def earliest(self, seats: Sequence[StudentSlot]) -> int | None:
        """The step at which the students that are furthest behind stand, on any worker; None where there are none.

        Whose students stand elsewhere meanwhile does its part for the others' batches.
        """
        steps = self._of_each(seats[0].step if seats else None)
        return min((step for step in steps if step is not None), default=None)

    def needs(self, seats: Sequence[StudentSlot]) -> frozenset[str] | None:
        """What the students of any worker look at, in the words of method cards; None where there are none."""
        mine = frozenset[str]().union(*(seat.needs for seat in seats))
        needs = [each for each in self._of_each(mine if seats else None) if each is not None]
        return frozenset[str]().union(*needs) if needs else None

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Where care is needed, workers with students of their own go one after the other: the desk knows one place."""
        turns = self.of_students and self._attention.careful
        if turns:
            self._wait_for(self._workers.rank)
        yield
        if turns:
            self._wait_for(self._workers.world_size - self._workers.rank)

    def _wait_for(self, turns: int) -> None:
        self._attention.rest()
        for _ in range(turns):
            self._workers.gathered(None)

    def even_out(self, seating: DeviceSlots) -> None:
        """No worker has two students more than another from here on; theirs change hands on the host."""
        if not self.of_students:
            return
        seats = {seat.trial.trial_id: seat for seat in seating.training()}
        for move in evened_out(self.of_all(list(seats))):
            if self._workers.rank == move.giver:
                given = seats[move.trial_id]
                given.wait_on_host()
                seating.seats.remove(given)
                self._workers.hand_over(given, move.giver, move.taker)
            elif self._workers.rank == move.taker:
                taken: StudentSlot | None = self._workers.hand_over(None, move.giver, move.taker)
                assert taken is not None  # its giver calls this at the same time
                seating.seats.append(taken)
