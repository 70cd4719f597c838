"""Which of a wave's students are on the device: all at once where they fit, else some, while the others wait on the host.

Who trains beside whom changes no result, so the device's memory may decide it. It is not computed beforehand but met: a
student that cannot be built beside the others waits until they have come as far as they go, and from then on no more are
seated at a time; one whose step finds no memory is begun anew by itself.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial

from orchestrator.worker.data_parallel import Workers
from orchestrator.worker.student_slot import StudentSlot, is_out_of_memory


class DeviceSlots:
    """The seats of the wave at hand.

    Args:
        workers: the cohort's; all of them seat alike.
        most: students on the device at a time; all where None, until memory says otherwise.
        fill: builds a seat's student on the device, from what waits on the host if there is something.
        fail: ends a seat's trial.
    """

    def __init__(
        self,
        workers: Workers,
        most: int | None,
        fill: Callable[[StudentSlot], None],
        fail: Callable[[StudentSlot, Exception], None],
    ) -> None:
        self.seats: list[StudentSlot] = []
        self._workers = workers
        self._most = most
        self._fill = fill
        self._fail = fail

    def training(self) -> list[StudentSlot]:
        """Those whose trials have not ended."""
        return [seat for seat in self.seats if not seat.ended]

    @property
    def present(self) -> int:
        """Students on the device."""
        return sum(seat.student is not None for seat in self.seats)

    def next_group(self, stop: int) -> list[StudentSlot]:
        """Seats that stand at one step short of `stop`, at most as many as may be on the device at a time."""
        behind = [seat for seat in self.training() if seat.step < stop]
        first = min((seat.step for seat in behind), default=0)
        together = [seat for seat in behind if seat.step == first]
        by_itself = [seat for seat in together if seat.alone]
        return by_itself[:1] or together[: self._most]

    def enter(self, group: Sequence[StudentSlot]) -> list[StudentSlot]:
        """Has these students on the device, and returns those who are: memory, or a fault in one, may keep some away."""
        by_itself = any(seat.alone for seat in group)
        self._send_away([seat for seat in self._outside(group) if by_itself or seat.alone])
        for seat in group:
            if not seat.ended and seat.student is None and not self._build(seat, group):
                break
        return [seat for seat in group if not seat.ended and seat.student is not None]

    def _build(self, seat: StudentSlot, group: Sequence[StudentSlot]) -> bool:
        """Builds one student; returns whether there may be room for another."""
        inside = sum(other.student is not None for other in group)
        if self._most is not None:
            outside = self._outside(group)
            self._send_away(outside[: max(0, len(outside) + inside + 1 - self._most)])
        failure = self._attempt(seat)
        if self._lacks_memory(failure) and self._outside(group):
            self._send_away(self._outside(group))
            failure = self._attempt(seat)
        if failure is None:
            return True
        if self._lacks_memory(failure) and inside:
            self._most = inside
            return False
        self._fail(seat, failure)
        return True

    def _attempt(self, seat: StudentSlot) -> Exception | None:
        failure = self._workers.attempt(partial(self._fill, seat))
        if failure is not None:
            seat.wait_on_host()  # where it was built, though not on every worker
        return failure

    def _outside(self, group: Sequence[StudentSlot]) -> list[StudentSlot]:
        return [seat for seat in self.seats if seat.student is not None and seat not in group]

    def _lacks_memory(self, failure: Exception | None) -> bool:
        """Whether any worker ran out of memory; all answer alike."""
        return failure is not None and any(self._workers.gathered(is_out_of_memory(failure)))

    def _send_away(self, seats: Sequence[StudentSlot]) -> None:
        """These students wait on the host."""
        for seat in seats:
            seat.wait_on_host()
        if seats:
            gc.collect()  # an exception that a student keeps holds the student
            self._workers.free_memory()
