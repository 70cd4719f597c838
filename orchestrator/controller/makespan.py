"""When a cohort will be done, and whether one more worker group would finish it sooner. Pure: no Ray, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressSample:
    """A wave was seen at `step` of `steps`, `seconds` after it was opened.

    `first_seconds` and `first_step` are of its first sample: the time before was start-up, not training.
    """

    seconds: float
    step: int
    steps: int
    first_seconds: float = 0.0
    first_step: int = 0

    @property
    def wave_seconds(self) -> float | None:
        """Seconds for the whole wave at its pace so far; None while the pace is unknown."""
        done = self.step - self.first_step
        return (self.seconds - self.first_seconds) / done * self.steps if done > 0 else None


@dataclass(frozen=True)
class MakespanEstimate:
    """The work that a cohort has left."""

    remaining_seconds: tuple[float, ...]
    """For each of its worker groups, until it has trained its current wave."""
    unopened: int
    """Waves that no group has begun."""
    wave_seconds: float

    def seconds(self, *starts: float) -> float:
        """Seconds until the cohort is done, with further worker groups that begin after so many seconds each."""
        free = [*self.remaining_seconds, *starts]
        heapq.heapify(free)
        for _ in range(self.unopened):
            heapq.heappush(free, heapq.heappop(free) + self.wave_seconds)
        return max(free) if self.unopened else max(self.remaining_seconds, default=0.0)

    def ends_sooner_with(self, start: float) -> bool:
        """Whether one more worker group that begins after `start` seconds finishes the cohort sooner."""
        return self.seconds(start) < self.seconds()


def estimate_makespan(
    samples: Sequence[ProgressSample], finished: Sequence[float], unopened: int
) -> MakespanEstimate | None:
    """The work left, from the cohort's waves.

    Args:
        samples: latest sample of each wave that is being trained.
        finished: seconds that finished waves took. Only the last one is used, because search waves come before final ones.
        unopened: waves that no group has begun.

    Returns:
        None while no pace is known.
    """
    paces = [sample.wave_seconds for sample in samples]
    known = [pace for pace in paces if pace is not None] or list(finished[-1:])
    if not known:
        return None
    usual = sum(known) / len(known)
    remaining = [
        max(0.0, (usual if pace is None else pace) * (1 - sample.step / max(sample.steps, 1)))
        for sample, pace in zip(samples, paces, strict=True)
    ]
    return MakespanEstimate(tuple(remaining), unopened, usual)
