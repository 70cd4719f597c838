"""Caches a frozen teacher's outputs on a local disk.

All waves of a search train on the same stream of batches, and so do later runs on the same data. Where reading an
output is faster than computing it, it is read. The name of an entry is a hash of everything that decides its content,
the bytes of the pictures included, so a stale entry is never read. A cached output equals the computed one to the bit.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import statistics
import time
from collections.abc import Callable, Set
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from distill.data.disk_cache import DiskCache
from distill.data.stream import HostBatch
from distill.models.output import MAP_NAMES, MapName, OutputMaps

PROBES = 5  # timed reads, and timed forward passes, before the faster one is known
WRITES_AHEAD = 4  # batches that may wait to be written; on a slower disk, some batches are not cached

T = TypeVar("T")


class TeacherOutputCache:
    """Cache of the outputs of one teacher.

    The names of entries hash `teacher`, `precision`, `layout` and the properties of the machine that decide the last
    bits of an output.

    Args:
        folder: a folder in memory or on a fast disk of this machine.
        limit_bytes: maximum size of the folder. Entries that no running worker has used are deleted to make room;
            when none is left, nothing more is cached.
        teacher: sha256 of the teacher's weights file.
        precision: the recipe's precision.
        layout: memory layout of the teacher's weights.
        device: device that the teacher runs on.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        *,
        teacher: str,
        precision: str,
        layout: str,
        device: torch.device,
    ) -> None:
        self._disk_cache = DiskCache(folder, limit_bytes, ".outputs", evicts=True, protects_own=True)
        self._device = device
        self._identity = {
            "entry": "one map",  # earlier versions had all stages in one
            "teacher": teacher,
            "precision": precision,
            "layout": layout,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
        }
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="teacher outputs")
        self._writing: list[Future[bool]] = []
        self._reading: list[float] = []
        self._computing: list[float] = []
        self.off = False
        self.saved_seconds = 0.0
        """Computing time less reading time, summed since the caller last set this to 0.

        A student is charged what computing the outputs would have cost."""

    def maps(
        self, host: HostBatch, images: Tensor, needs: Set[MapName], compute: Callable[[], OutputMaps]
    ) -> OutputMaps:
        """The teacher's maps for a batch, read or computed.

        Args:
            host: the batch as the stream returned it.
            images: the same images, normalised, as the teacher takes them.
            needs: the maps that the methods read.
            compute: runs the teacher and returns those maps.
        """
        if self.off:
            return compute()
        name = self._name(host, images)
        found, seconds = self._timed(lambda: self._read(name, needs), self._reading)
        if found is not None:
            maps, computing = found
            reading = statistics.median(self._reading) if seconds is None else seconds
            self.saved_seconds += computing - reading
            self.off = len(self._reading) == PROBES and statistics.median(self._reading) >= computing
            return maps
        computed, _ = self._timed(compute, self._computing)
        assert computed is not None  # it was just computed
        self._store(name, computed, statistics.median(self._computing))
        return computed

    def close(self) -> None:
        """Wait until all entries are written."""
        self._writer.shutdown(wait=True)

    def _timed(self, work: Callable[[], T | None], seen: list[float]) -> tuple[T | None, float | None]:
        """The result of `work`, and its seconds; on a GPU only the first `PROBES` are timed, since timing synchronises."""
        probing = len(seen) < PROBES
        if not probing and self._device.type == "cuda":
            return work(), None
        self._wait()
        begun = time.perf_counter()
        found = work()
        self._wait()
        seconds = time.perf_counter() - begun
        if found is not None and probing:
            seen.append(seconds)
        return found, seconds

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _name(self, host: HostBatch, images: Tensor) -> str:
        layout = {"shape": list(images.shape), "stride": list(images.stride()), "dtype": str(images.dtype)}
        digest = hashlib.sha256(json.dumps({**self._identity, **layout}, sort_keys=True).encode())
        digest.update(host.images_b3hw.permute(0, 2, 3, 1).contiguous().numpy().data)
        return digest.hexdigest()[:40]

    def _read(self, name: str, needs: Set[MapName]) -> tuple[OutputMaps, float] | None:
        """The maps on the device, and the seconds that it took to compute them."""
        maps: OutputMaps = {}
        computing = 0.0
        for part in (part for part in MAP_NAMES if part in needs):
            path = self._disk_cache.path(_entry(name, part))
            try:
                entry = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                os.utime(path)  # marks the entry as used
            except Exception:  # missing or damaged: it is computed and written again
                return None
            computing = entry["seconds"]
            maps[part] = entry["maps"].to(self._device, non_blocking=True)
        return maps, computing

    def _store(self, name: str, maps: OutputMaps, seconds: float) -> None:
        self._writing = [writing for writing in self._writing if not writing.done()]
        if len(self._writing) >= WRITES_AHEAD:
            return
        entries = {part: {"maps": some.cpu(), "seconds": seconds} for part, some in maps.items()}
        self._writing.append(self._writer.submit(self._write, name, entries))

    def _write(self, name: str, entries: dict[MapName, dict[str, Any]]) -> bool:
        for part, content in entries.items():
            buffer = io.BytesIO()
            torch.save(content, buffer)
            if not self._disk_cache.put(_entry(name, part), [buffer.getbuffer()]):
                return False
        return True


def _entry(name: str, part: MapName) -> str:
    return f"{name}{MAP_NAMES.index(part)}"
