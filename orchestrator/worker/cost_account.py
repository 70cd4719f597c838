"""What the students of a wave cost: their own seconds, and their shares of the teacher's and the data's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from distill.training import Student
from orchestrator.protocol import Costs
from orchestrator.worker.batch_feed import BatchFeed
from orchestrator.worker.device_slots import DeviceSlots
from orchestrator.worker.student_memory import StudentMemory
from orchestrator.worker.student_placement import Placement
from orchestrator.worker.student_slot import StudentSlot
from orchestrator.worker.timer import Timer


class CostAccount:
    """Adds up the costs of a wave's students.

    Args:
        placement: of the students.
        feed: this worker's data and teacher.
        slots: of the wave.
        memory: what the students' steps add to the device's memory.
    """

    def __init__(
        self, placement: Placement, feed: BatchFeed, slots: DeviceSlots, memory: StudentMemory
    ) -> None:
        self._memory = memory
        self._placement = placement
        self._feed = feed
        self._slots = slots
        self._since = time.monotonic()

    def open_wave(self) -> None:
        """A wave begins here, or goes on in another command: the time in between is not its students'."""
        self._since = time.monotonic()

    def add_wall_seconds(self) -> None:
        """Add the time since the last call to every trial of the wave that has not ended."""
        now = time.monotonic()
        elapsed, self._since = now - self._since, now
        for slot in self._slots.training():
            slot.costs = replace(slot.costs, wall_seconds=slot.costs.wall_seconds + elapsed)

    def add_round(self, slots: Sequence[StudentSlot], timer: Timer) -> None:
        """Add what the timer has measured to these students, which shared each batch. All workers call this together."""
        seconds, rises = timer.read(), self._memory.read()
        self.add_wall_seconds()
        sharers, saved = self._placement.sharers, self._feed.take_saved_seconds()
        teacher, data = (sharers * seconds.pop(name, 0.0) for name in ("teacher", "data"))
        trained = self._placement.total(len(slots))
        taught = self._placement.total(sum(slot.needs_teacher for slot in slots))
        for slot in slots:
            own = seconds.get(slot.trial.trial_id, 0.0)
            needs = slot.needs_teacher
            share = data / trained + (teacher / taught if needs else 0.0)
            slot.costs = Costs(
                student_seconds=slot.costs.student_seconds + own,
                shared_seconds=slot.costs.shared_seconds + share,
                teacher_seconds=slot.costs.teacher_seconds + (teacher + sharers * saved if needs else 0.0),
                wall_seconds=slot.costs.wall_seconds,
                peak_memory_bytes=_own_peak(slot, rises.get(slot.trial.trial_id)),
            )


def _own_peak(slot: StudentSlot, rise: int | None) -> int | None:
    """The student's largest use of the device so far: what it keeps between steps, and what a step adds."""
    before = slot.costs.peak_memory_bytes
    if rise is None or not isinstance(slot.student, Student):
        return before
    return max(before or 0, slot.student.kept_bytes() + rise)
