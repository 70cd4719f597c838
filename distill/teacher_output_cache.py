"""A frozen teacher's outputs for the batches it has seen, kept on a disk of the machine.

Waves of a search show the same stream, and so do later runs on the same data: what the teacher says of a batch need not
be worked out again where reading it is quicker. An entry's name is a hash of all that decides it, the pictures' own bytes
included, so that a stale one cannot be read, whatever was changed. What is read are the very bits that were computed.
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
from distill.models.output import PARTS, Output

PROBES = 5  # of reading, and of computing, before the quicker is known
WRITES_AHEAD = 4  # batches that wait to be written; where the disk is slower, some are not kept

T = TypeVar("T")


class TeacherOutputCache:
    """Outputs of one teacher.

    Args:
        folder: of this machine's own, in memory or on a fast disk.
        limit_bytes: most that the folder holds. What no running worker has used makes room; then nothing more is kept.
        teacher: hash of the teacher's weights file.
        precision: the recipe's. layout: how the teacher lies in memory. Both decide the last bits, as what of the
            machine does, and are part of each name.
        device: where the teacher runs.
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
        self._shelf = DiskCache(folder, limit_bytes, ".outputs", makes_room=True, spares_own=True)
        self._device = device
        self._identity = {
            "teacher": teacher,
            "precision": precision,
            "layout": layout,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
        }
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kept outputs")
        self._writing: list[Future[bool]] = []
        self._reading: list[float] = []
        self._computing: list[float] = []
        self.off = False
        self.saved_seconds = 0.0
        """Time that reading has saved since somebody set this to 0: a teacher costs what computing costs."""

    def output(
        self, host: HostBatch, images: Tensor, needs: Set[str], compute: Callable[[], Output]
    ) -> Output:
        """The teacher's output for a batch, read or computed.

        Args:
            host: the batch as it came out of the stream. images: the same, as the teacher sees it.
            needs: which of `PARTS` somebody will look at; of one that is read the others are empty.
            compute: the teacher's forward pass.
        """
        if self.off:
            return compute()
        name = self._name(host, images)
        found, seconds = self._timed(lambda: self._read(name, needs), self._reading)
        if found is not None:
            output, computing = found
            reading = statistics.median(self._reading) if seconds is None else seconds
            self.saved_seconds += computing - reading
            self.off = len(self._reading) == PROBES and statistics.median(self._reading) >= computing
            return output
        computed, _ = self._timed(compute, self._computing)
        assert computed is not None  # it was just computed
        self._keep(name, computed.maps_of(needs), statistics.median(self._computing))
        return computed

    def close(self) -> None:
        """Waits until all is written."""
        self._writer.shutdown(wait=True)

    def _timed(self, work: Callable[[], T | None], seen: list[float]) -> tuple[T | None, float | None]:
        """What `work` finds, with its time. The device is waited for only as long as there is something to learn."""
        learns = len(seen) < PROBES
        if not learns and self._device.type == "cuda":
            return work(), None
        self._wait()
        begun = time.perf_counter()
        found = work()
        self._wait()
        seconds = time.perf_counter() - begun
        if found is not None and learns:
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

    def _read(self, name: str, needs: Set[str]) -> tuple[Output, float] | None:
        """The output, on the device, and what it once took to compute."""
        maps: dict[str, list[Tensor]] = {}
        computing = 0.0
        for part in (part for part in PARTS if part in needs):
            path = self._shelf.path(_entry(name, part))
            try:
                kept = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                os.utime(path)  # used now
            except Exception:  # not there, or damaged: it is computed, and written anew
                return None
            computing = kept["seconds"]
            maps[part] = [tensor.to(self._device, non_blocking=True) for tensor in kept["maps"]]
        return Output.of_maps(maps, torch.empty(0, device=self._device)), computing

    def _keep(self, name: str, maps: dict[str, list[Tensor]], seconds: float) -> None:
        self._writing = [writing for writing in self._writing if not writing.done()]
        if len(self._writing) >= WRITES_AHEAD:
            return
        kept = {part: {"maps": [m.cpu() for m in some], "seconds": seconds} for part, some in maps.items()}
        self._writing.append(self._writer.submit(self._write, name, kept))

    def _write(self, name: str, kept: dict[str, dict[str, Any]]) -> bool:
        for part, content in kept.items():
            buffer = io.BytesIO()
            torch.save(content, buffer)
            if not self._shelf.put(_entry(name, part), [buffer.getbuffer()]):
                return False
        return True


def _entry(name: str, part: str) -> str:
    return f"{name}{PARTS.index(part)}"
