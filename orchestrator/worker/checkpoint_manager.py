"""A cohort's checkpoints. Tensors and plain values only: nothing is unpickled.

A checkpoint is one file per worker and a manifest with their hashes, which is written last. Without its manifest, or with
a file that does not match it, a checkpoint does not exist, and the one before is used.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from typing import Any

import torch

from distill.errors import reading
from orchestrator.ledger.tables import Ledger
from orchestrator.worker.data_parallel import Workers

Entries = dict[str, dict[str, Any]]


class CheckpointManager:
    """The checkpoints of a worker group's current wave, in `checkpoints/<cohort>/<wave>/` of the run.

    Args:
        ledger: the run's.
        cohort_id: the cohort.
        workers: all workers of the cohort.
        kept: number of newest checkpoints that are kept.
        interval_seconds: time between two checkpoints.
    """

    def __init__(
        self, ledger: Ledger, cohort_id: str, workers: Workers, kept: int, interval_seconds: float
    ) -> None:
        self._ledger = ledger
        self._cohort = f"checkpoints/{cohort_id}"
        self._folder: str | None = None
        self._workers = workers
        self._kept = kept
        self._interval = interval_seconds
        self._written_at = time.monotonic()
        self._number = 0

    def due(self) -> bool:
        """Whether the last checkpoint is older than the interval."""
        return time.monotonic() - self._written_at >= self._interval

    def save(self, entries: Entries) -> None:
        """Write every worker's part, then the manifest; delete old checkpoints. All workers call this together.

        Args:
            entries: of this worker's students, by trial id.
        """
        buffer = io.BytesIO()
        torch.save(entries, buffer)
        data = buffer.getvalue()
        folder = f"{self._folder}/{self._number:08d}"
        self._ledger.write_bytes(f"{folder}/rank{self._workers.rank}.pt", data)
        hashes = self._workers.gather(hashlib.sha256(data).hexdigest())
        if self._workers.is_rank_0:
            manifest = {"world_size": self._workers.world_size, "sha256": hashes}
            self._ledger.write_bytes(f"{folder}/manifest.json", json.dumps(manifest).encode())
            for old in self._numbers()[: -self._kept]:
                self._ledger.delete(f"{self._folder}/{old:08d}")
        self._number += 1
        self._written_at = time.monotonic()

    def restore(self, wave: int, *, all_workers: bool) -> Entries:
        """Entries of a wave's newest sound checkpoint, on the host; empty if there is none.

        The checkpoints of the wave before are deleted: a wave begins when all of that one is recorded.

        Args:
            wave: number of the wave.
            all_workers: read the entries of all workers, each of which had students of its own, not only this one's.
        """
        if self._folder is not None and self._workers.is_rank_0:
            self._ledger.delete(self._folder)
        self._folder = f"{self._cohort}/{wave:04d}"
        found = self._workers.from_rank_0(self._newest)
        numbers = self._workers.from_rank_0(self._numbers)
        self._number = numbers[-1] + 1 if numbers else 0
        if found is None:
            return {}
        entries: Entries = {}
        for rank in range(self._workers.world_size) if all_workers else (self._workers.rank,):
            path = f"{self._folder}/{found:08d}/rank{rank}.pt"
            data = self._ledger.read_bytes(path)
            with reading(self._ledger.place(path), "delete this checkpoint, and the one before it is used"):
                # on the host: which of them are on the device at a time is the business of `DeviceSlots`
                entries |= torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return entries

    def _newest(self) -> int | None:
        for number in reversed(self._numbers()):
            manifest = self._manifest(number)
            if manifest is not None and manifest["world_size"] == self._workers.world_size:
                return number
        return None

    def _manifest(self, number: int) -> dict[str, Any] | None:
        """The manifest of a checkpoint, or None if one of its files is missing or damaged."""
        folder = f"{self._folder}/{number:08d}"
        try:
            manifest: dict[str, Any] = json.loads(self._ledger.read_bytes(f"{folder}/manifest.json"))
            for rank, expected in enumerate(manifest["sha256"]):
                if hashlib.sha256(self._ledger.read_bytes(f"{folder}/rank{rank}.pt")).hexdigest() != expected:
                    return None
        except (OSError, ValueError, KeyError):
            return None
        return manifest

    def _numbers(self) -> list[int]:
        paths = self._ledger.list(str(self._folder))
        return sorted({int(path.split("/")[-2]) for path in paths if path.split("/")[-2].isdigit()})
