"""The memory of single students on a device that many share: what one keeps between steps, and what its own steps add."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch


class Allocator(Protocol):
    """The allocator of a device."""

    def begin(self) -> int:
        """Bytes in use. The peak is counted from here on."""
        ...

    def peak(self) -> int:
        """The largest number of bytes in use since `begin`."""
        ...


class CudaAllocator:
    """Torch's caching allocator, whose figures are known to the host without a wait for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def begin(self) -> int:
        """See `Allocator.begin`."""
        torch.cuda.reset_peak_memory_stats(self._device)
        return self._bytes("current")

    def peak(self) -> int:
        """See `Allocator.peak`."""
        return self._bytes("peak")

    def _bytes(self, which: str) -> int:
        # The nested form: `torch.cuda.memory_allocated` flattens and sorts more than a hundred numbers for each call.
        stats = torch.cuda.memory_stats_as_nested_dict(self._device)
        return int(stats.get("allocated_bytes", {}).get("all", {}).get(which, 0))


def device_allocator(device: torch.device) -> Allocator | None:
    """The allocator of a GPU; None for a CPU, where torch does not know what is allocated."""
    return CudaAllocator(device) if device.type == "cuda" else None


class StudentMemory:
    """How far each student's own steps raise the memory in use.

    Args:
        allocator: of the device; None where nothing can be measured.
    """

    def __init__(self, allocator: Allocator | None) -> None:
        self._allocator = allocator
        self._rises: dict[str, int] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Compare the peak of the block with the memory in use before it."""
        if self._allocator is None:
            yield
            return
        before = self._allocator.begin()
        yield
        self._rises[name] = max(self._rises.get(name, 0), self._allocator.peak() - before)

    def read(self) -> dict[str, int]:
        """Largest rise in bytes by name since the last call; empty where nothing can be measured."""
        rises, self._rises = self._rises, {}
        return rises
