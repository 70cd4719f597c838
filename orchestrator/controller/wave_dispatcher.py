"""Hands waves to worker groups that are free, and knows how far each of them is."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.controller.coordinator import ChannelClient
from orchestrator.controller.makespan import MakespanEstimate, ProgressSample, estimate_makespan
from orchestrator.controller.wave_scheduler import WaveScheduler
from orchestrator.protocol import STARTING, CohortProgress, WaveOrder


@dataclass
class ActiveChannel:
    """A worker group at work on a cohort. Several groups may train different waves of one cohort."""

    name: str
    cohort_id: str
    client: ChannelClient
    number: int = 1  # among the cohort's worker groups
    opened_channel_at: float = field(default_factory=time.monotonic)
    has_started: bool = False  # whether its workers have reported
    has_trained: bool = False
    wave: int = -1
    opened_wave_at: float = 0.0
    sample: ProgressSample | None = None  # of the current wave


class WaveDispatcher:
    """The channels of the worker groups at work, and which further ones are expected.

    Args:
        scheduler: waves of the phase.
        coordinator: name of the coordinator's actor.
    """

    def __init__(self, scheduler: WaveScheduler, coordinator: str = "") -> None:
        self.scheduler = scheduler
        self.coordinator = coordinator
        self.active: dict[str, ActiveChannel] = {}
        self.stopping = False
        self._finished_wave_seconds: dict[str, list[float]] = {}  # by cohort
        self._expected: set[str] = set()
        self._finished = False
        self._lock = threading.RLock()

    def expect(self, name: str) -> bool:
        """A channel of this name will be added; returns False if no further wave will be opened."""
        with self._lock:
            if not self._finished:
                self._expected.add(name)
            return not self._finished

    def add(self, name: str, channel: ActiveChannel | None) -> None:
        """Add the expected channel, or None if it will not come."""
        with self._lock:
            self._expected.discard(name)
            if channel is not None:
                self.active[name] = channel

    def remove(self, name: str) -> None:
        """The worker group of this channel has ended its work."""
        with self._lock:
            self.active.pop(name, None)

    def finish(self) -> bool:
        """Whether no further wave will be opened; from then on no channel is expected."""
        with self._lock:
            self._finished = self._finished or self.stopping or not (self._expected or self.active)
            return self._finished

    def open_waves(self) -> list[WaveOrder]:
        """Give a wave to every free worker group; close the channels for which there is none now."""
        with self._lock:
            free = [c for c in self.active.values() if not self.scheduler.is_running(c.cohort_id, c.wave)]
            waves = [] if self.stopping else [self._open_wave(c) for c in free if self._may_open(c)]
            return [wave for wave in waves if wave is not None]

    def _may_open(self, channel: ActiveChannel) -> bool:
        """Whether a wave is trained here as soon as anywhere: a further group that still starts leaves it to others."""
        return channel.number == 1 or channel.has_started or not self.scheduler.unopened(channel.cohort_id)

    def _open_wave(self, channel: ActiveChannel) -> WaveOrder | None:
        now = time.monotonic()
        if channel.sample is not None:
            seconds = now - channel.opened_wave_at - channel.sample.first_seconds
            self._finished_wave_seconds.setdefault(channel.cohort_id, []).append(seconds)
        wave = self.scheduler.open_next(channel.cohort_id)
        channel.wave, channel.opened_wave_at, channel.sample = -1 if wave is None else wave.index, now, None
        if wave is not None:
            channel.client.open_wave(wave)
        elif not self.scheduler.unopened(channel.cohort_id) or self._has_siblings(channel):
            # A group does not keep its machine while it waits for another group's wave, which may need that machine.
            channel.client.close()
            del self.active[channel.name]
        return wave

    def _has_siblings(self, channel: ActiveChannel) -> bool:
        others = (other for other in self.active.values() if other is not channel)
        return any(other.cohort_id == channel.cohort_id for other in others)

    def update(self, progress: Mapping[str, CohortProgress]) -> dict[str, float]:
        """Take in the progress of channels by name.

        Returns:
            Start-up seconds by channel, of those that were now first seen to train.
        """
        with self._lock:
            seconds = {channel.name: _update(channel, progress) for channel in self.active.values()}
            return {name: found for name, found in seconds.items() if found is not None}

    def makespan(self, cohort_id: str) -> MakespanEstimate | None:
        """The work left of a cohort; None while it is unknown or one of its worker groups has no wave."""
        mine = [channel for channel in list(self.active.values()) if channel.cohort_id == cohort_id]
        samples = [channel.sample for channel in mine if channel.sample is not None]
        if not mine or len(samples) < len(mine):
            return None
        finished = self._finished_wave_seconds.get(cohort_id, ())
        return estimate_makespan(samples, finished, self.scheduler.unopened(cohort_id))


def _update(channel: ActiveChannel, by_name: Mapping[str, CohortProgress]) -> float | None:
    progress = by_name.get(channel.name)
    channel.has_started = channel.has_started or (progress is not None and progress.activity != STARTING)
    if progress is None or progress.wave != channel.wave or not progress.step:
        return None
    now = time.monotonic()
    seconds = now - channel.opened_wave_at
    first = channel.sample or ProgressSample(seconds, progress.step, progress.steps, seconds, progress.step)
    channel.sample = replace(first, seconds=seconds, step=progress.step)
    is_first, channel.has_trained = not channel.has_trained, True
    return now - channel.opened_channel_at if is_first else None
