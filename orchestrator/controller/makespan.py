"""When a cohort will be done, and whether one more crew would have it done sooner. Pure: no ray, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressSample:
    """What was seen of a wave at work: so many seconds after it was opened it stood at this step of so many.

    `since` and `before` are where it stood when it was first seen to train: what came before was not training.
    """

    seconds: float
    step: int
    steps: int
    since: float = 0.0
    before: int = 0

    @property
    def whole(self) -> float | None:
        """Seconds that the wave takes from its first step to its last, at its pace so far; None while that is unknown."""
        done = self.step - self.before
        return (self.seconds - self.since) / done * self.steps if done > 0 else None


@dataclass(frozen=True)
class MakespanEstimate:
    """What a cohort still has to train."""

    rest: tuple[float, ...]
    """Seconds until each of its crews has trained its wave."""
    unopened: int
    wave_seconds: float

    def seconds(self, *starts: float) -> float:
        """Seconds until it is done, with further crews that begin after so many seconds each."""
        free = [*self.rest, *starts]
        heapq.heapify(free)
        for _ in range(self.unopened):
            heapq.heappush(free, heapq.heappop(free) + self.wave_seconds)
        return max(free) if self.unopened else max(self.rest, default=0.0)

    def ends_sooner(self, start: float) -> bool:
        """Whether one more crew that begins after `start` seconds would have it done sooner."""
        return self.seconds(start) < self.seconds()


def outlook(
    sights: Sequence[ProgressSample], over: Sequence[float], unopened: int
) -> MakespanEstimate | None:
    """What a cohort's waves tell.

    Args:
        sights: its waves at work.
        over: seconds that those took which are over; the latest count, as search comes before final runs.
        unopened: waves to come.

    Returns:
        None while nothing is known.
    """
    paces = [sight.whole for sight in sights]
    known = [pace for pace in paces if pace is not None] or list(over[-1:])
    if not known:
        return None
    usual = sum(known) / len(known)
    rest = [
        max(0.0, (usual if pace is None else pace) * (1 - sight.step / max(sight.steps, 1)))
        for sight, pace in zip(sights, paces, strict=True)
    ]
    return MakespanEstimate(tuple(rest), unopened, usual)
