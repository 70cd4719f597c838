"""Which of a wave's students are on the device: all of them if they fit, otherwise some, while the others are on the host.

Which students train together changes no result, so the device's memory may decide it. Memory use is not predicted: if
a student cannot be built beside the others, it waits until they have trained as far as they can, and from then on no
more are on the device at a time. A student whose step runs out of memory goes on from its last checkpoint beside half as
many others, down to none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from distill.device_errors import is_out_of_memory
from orchestrator.worker.data_parallel import Workers
from orchestrator.worker.student_slot import StudentSlot


class DeviceSlots:
    """The slots of the current wave.

    Args:
        workers: those that train a student together; all of them decide alike.
        most: students on the device at a time; None for all, until memory runs out.
        build: builds a slot's student on the device, from its state on the host if it has one.
        fail: ends a slot's trial.
    """

    def __init__(
        self,
        workers: Workers,
        most: int | None,
        build: Callable[[StudentSlot], None],
        fail: Callable[[StudentSlot, Exception], None],
    ) -> None:
        self.slots: list[StudentSlot] = []
        self._workers = workers
        self._most = most
        self._build = build
        self._fail = fail

    def training(self) -> list[StudentSlot]:
        """Slots whose trials have not ended."""
        return [slot for slot in self.slots if not slot.ended]

    @property
    def on_device(self) -> int:
        """Number of students on the device."""
        return sum(slot.student is not None for slot in self.slots)

    def next_group(self, stop: int) -> list[StudentSlot]:
        """Slots at one step before `stop`, at most as many as may be on the device at a time."""
        behind = [slot for slot in self.training() if slot.step < stop]
        first = min((slot.step for slot in behind), default=0)
        return self.fitting([slot for slot in behind if slot.step == first])

    def fitting(self, slots: Sequence[StudentSlot]) -> list[StudentSlot]:
        """As many of these slots as may be on the device together; the least limited ones first."""
        group: list[StudentSlot] = []
        for slot in sorted(slots, key=self._limit, reverse=True):
            if len(group) >= self._limit(slot):
                break
            group.append(slot)
        return group

    def _limit(self, slot: StudentSlot) -> int:
        return min(limit for limit in (len(self.slots), self._most, slot.most_together) if limit is not None)

    def load(self, group: Sequence[StudentSlot]) -> list[StudentSlot]:
        """Put these students on the device; returns those that are there. Memory or an error may keep some away."""
        if group:
            outside = self._outside(group)
            most = min(self._limit(slot) for slot in group)
            self._unload(outside[: max(0, len(outside) + len(group) - most)])
        for slot in group:
            if not slot.ended and slot.student is None and not self._load_one(slot, group):
                break
        return [slot for slot in group if not slot.ended and slot.student is not None]

    def load_alone(self, slot: StudentSlot) -> list[StudentSlot]:
        """Put this student on the device and the others on the host; see `load`."""
        self._unload(self._outside([slot]))
        return self.load([slot])

    def _load_one(self, slot: StudentSlot, group: Sequence[StudentSlot]) -> bool:
        """Build one student; returns whether there may be memory for another."""
        inside = sum(other.student is not None for other in group)
        failure = self._try_to_build(slot)
        if self._is_out_of_memory(failure) and self._outside(group):
            self._unload(self._outside(group))
            failure = self._try_to_build(slot)
        if failure is None:
            return True
        if self._is_out_of_memory(failure) and inside:
            self._most = inside
            return False
        self._fail(slot, failure)
        return True

    def _try_to_build(self, slot: StudentSlot) -> Exception | None:
        failure = self._workers.attempt(partial(self._build, slot))
        if failure is not None:
            slot.move_to_host()  # it may have been built on some workers
            self._workers.free_memory()
        return failure

    def can_retry(self, slot: StudentSlot, neighbours: int) -> bool:
        """Whether there is a way to train a student with less memory, after it ran out of it beside so many others."""
        recipe = slot.trial.recipe
        share = recipe.batch_size // (self._workers.world_size * recipe.accumulate)
        can_halve = recipe.accumulate_if_out_of_memory and slot.accumulate == 1 and share % 2 == 0
        return neighbours > 0 or can_halve

    def retry(self, slot: StudentSlot, neighbours: int, saved: Mapping[str, Any] | None) -> None:
        """Go on with less memory: from the last checkpoint beside half as many students; alone, anew in halved batches.

        Args:
            slot: of a student for which `can_retry` is true.
            neighbours: number of other students on the device when it ran out of memory.
            saved: the slot's entry in the newest checkpoint, if it has one.
        """
        happened = f"ran out of memory by step {slot.step}"
        if neighbours:
            slot.most_together = (neighbours + 1) // 2
            slot.rewind(saved)
            place = f"from step {slot.step}" if slot.step else "anew"
            company = f"beside at most {slot.most_together - 1}" if slot.most_together > 1 else "by itself"
            slot.remark = f"{happened} beside {neighbours} others; trained {place} {company}"
        else:
            slot.accumulate = 2
            slot.rewind(None)
            slot.remark = f"{happened}; trained anew with accumulate {2 * slot.trial.recipe.accumulate}"
        self._workers.free_memory()

    def _outside(self, group: Sequence[StudentSlot]) -> list[StudentSlot]:
        return [slot for slot in self.slots if slot.student is not None and slot not in group]

    def _is_out_of_memory(self, failure: Exception | None) -> bool:
        """Whether any worker ran out of memory; all workers get the same answer."""
        return failure is not None and any(self._workers.gather(is_out_of_memory(failure)))

    def _unload(self, slots: Sequence[StudentSlot]) -> None:
        """Move these students to the host."""
        for slot in slots:
            slot.move_to_host()
        if slots:
            self._workers.free_memory()
