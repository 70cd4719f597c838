"""Which of a wave's students are on the device: all of them if they fit, otherwise some, while the others are on the host.

Which students train together changes no result, so the device's memory may decide it. Memory use is not predicted: if
a student cannot be built beside the others, it waits until they have trained as far as they can, and from then on no
more are on the device at a time; a student whose step runs out of memory is trained again alone.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial

from orchestrator.worker.data_parallel import Workers
from orchestrator.worker.student_slot import StudentSlot, is_out_of_memory


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
        together = [slot for slot in behind if slot.step == first]
        alone = [slot for slot in together if slot.alone]
        return alone[:1] or together[: self._most]

    def load(self, group: Sequence[StudentSlot]) -> list[StudentSlot]:
        """Put these students on the device; returns those that are there. Memory or an error may keep some away."""
        alone = any(slot.alone for slot in group)
        self._unload([slot for slot in self._outside(group) if alone or slot.alone])
        for slot in group:
            if not slot.ended and slot.student is None and not self._load_one(slot, group):
                break
        return [slot for slot in group if not slot.ended and slot.student is not None]

    def _load_one(self, slot: StudentSlot, group: Sequence[StudentSlot]) -> bool:
        """Build one student; returns whether there may be memory for another."""
        inside = sum(other.student is not None for other in group)
        if self._most is not None:
            outside = self._outside(group)
            self._unload(outside[: max(0, len(outside) + inside + 1 - self._most)])
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
        return failure

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
            gc.collect()  # an exception that a student keeps holds the student
            self._workers.free_memory()
