"""Seconds by name, measured without making the device wait."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Timer:
    """Adds up time by name: the wall clock on a CPU; on a GPU, events that are read once a round."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of the block to `name`."""
        if self._cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
            return
        begun = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - begun

    def read(self) -> dict[str, float]:
        """Seconds by name since the last call. Waits for the device."""
        if self._events:
            torch.cuda.synchronize()
            for name, start, end in self._events:
                self._seconds[name] += start.elapsed_time(end) / 1000.0
        seconds, self._seconds, self._events = dict(self._seconds), defaultdict(float), []
        return seconds
