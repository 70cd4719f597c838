"""A cohort's checkpoints. Tensors and plain values only: nothing is unpickled.

A checkpoint is one file per worker and a manifest with their hashes, which is written last. Without its manifest, or with
a file that does not match it, a checkpoint does not exist, and the one before is used.

Training stops only while the students are copied to the host: a thread writes the copies, which are of one step.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch

from distill.device_memory import copy_to_host
from distill.errors import reading
from orchestrator.ledger.tables import Ledger
from orchestrator.worker.data_parallel import Workers

Entries = dict[str, dict[str, Any]]
Position = tuple[int, int]
COPY_SHARE = 20
"""A checkpoint is due at the earliest after this many times the seconds for which training stopped for the last one."""
WRITE_SHARE = 2
"""And after this many times the seconds in which it was written."""


@dataclass
class _Pending:
    """A checkpoint that is being written.

    Attributes:
        work: what this worker's thread writes: its part, then (rank 0) the manifest. Its result is a hash.
        parts_are_written: whether all workers have written their parts.
    """

    number: int
    position: Position
    begun: float
    work: Future[str]
    parts_are_written: bool = False


class CheckpointManager:
    """The checkpoints of a worker group's current wave, in `checkpoints/<cohort>/<wave>/` of the run.

    Args:
        ledger: the run's.
        cohort_id: the cohort.
        workers: all workers of the cohort.
        kept: number of newest checkpoints that are kept.
        interval_seconds: time between two checkpoints; longer if they cost much (`COPY_SHARE`, `WRITE_SHARE`).
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
        self._least_interval = 0.0
        self._begun = time.monotonic()
        self._number = 0
        self._pending: _Pending | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def due(self) -> bool:
        """Whether the last checkpoint is written, and older than the interval."""
        interval = max(self._interval, self._least_interval)
        return self._pending is None and time.monotonic() - self._begun >= interval

    def begin(self, entries: Entries, position: Position) -> None:
        """Copy every worker's part to the host, and begin to write the copy. All workers call this together.

        The checkpoint before must be written: call `finish` first.

        Args:
            entries: of this worker's students, by trial id.
            position: of the students: wave and sum of steps.
        """
        assert self._pending is None  # two at a time would need twice the memory
        begun = time.monotonic()
        copies = copy_to_host(entries)
        self._least_interval = COPY_SHARE * (time.monotonic() - begun)
        work = self._writer.submit(self._write_part, f"{self._folder}/{self._number:08d}", copies)
        self._pending = _Pending(self._number, position, begun, work)
        self._number += 1
        self._begun = begun

    def poll(self) -> Position | None:
        """The position of a checkpoint that is whole since now, or None. All workers call this together."""
        return self._advance()

    def finish(self) -> Position | None:
        """Wait until the checkpoint that is being written is whole; returns as `poll`. All workers call this together."""
        found = None
        while self._pending is not None:
            wait([self._pending.work])
            found = self._advance()
        return found

    def close(self) -> None:
        """Wait for this worker's thread."""
        self._writer.shutdown()

    def _advance(self) -> Position | None:
        pending = self._pending
        if pending is None:
            return None
        found = self._workers.gather(pending.work.result() if pending.work.done() else None)
        hashes = [each for each in found if each is not None]
        if len(hashes) < self._workers.world_size:
            return None
        if not pending.parts_are_written:
            pending.parts_are_written = True
            manifest = {"world_size": self._workers.world_size, "sha256": hashes}
            if self._workers.is_rank_0:
                pending.work = self._writer.submit(self._write_manifest, pending.number, manifest)
            return None
        self._pending = None
        seconds = time.monotonic() - pending.begun
        self._least_interval = max(self._least_interval, WRITE_SHARE * seconds)
        return pending.position

    def _write_part(self, folder: str, copies: Entries) -> str:
        buffer = io.BytesIO()
        torch.save(copies, buffer)
        data = buffer.getvalue()
        self._ledger.write_bytes(f"{folder}/rank{self._workers.rank}.pt", data)
        return hashlib.sha256(data).hexdigest()

    def _write_manifest(self, number: int, manifest: dict[str, Any]) -> str:
        """Makes the checkpoint valid, and deletes old ones."""
        data = json.dumps(manifest).encode()
        self._ledger.write_bytes(f"{self._folder}/{number:08d}/manifest.json", data)
        for old in self._numbers()[: -self._kept]:
            self._ledger.delete(f"{self._folder}/{old:08d}")
        return hashlib.sha256(data).hexdigest()

    def open_wave(self, wave: int, *, all_workers: bool) -> Entries:
        """Entries of a wave's newest sound checkpoint, on the host; empty if there is none.

        The checkpoints of the wave before are deleted: a wave begins when all of that one is recorded.

        Args:
            wave: number of the wave.
            all_workers: read the entries of all workers, each of which had students of its own, not only this one's.
        """
        self.finish()
        if self._folder is not None and self._workers.is_rank_0:
            self._ledger.delete(self._folder)
        self._folder = f"{self._cohort}/{wave:04d}"
        numbers = self._workers.from_rank_0(self._numbers)
        self._number = numbers[-1] + 1 if numbers else 0
        return self.newest(all_workers=all_workers)

    def newest(self, *, all_workers: bool) -> Entries:
        """Entries of the newest sound checkpoint of this wave; see `open_wave`. All workers call this together."""
        self.finish()
        found = self._workers.from_rank_0(self._newest)
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
