"""A cohort's checkpoints, and the models that are kept. Tensors and plain values only: nothing is unpickled.

A checkpoint is one file per worker and a manifest with their hashes, written last: without its manifest, or with a
file that does not match it, a checkpoint does not exist, and the one before counts.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from distill.data import SegmentationDataset
from distill.errors import reading
from distill.models import CheckpointMetadata, save_model
from distill.models.teachers import TeacherNetwork, load_teacher
from distill.training import Student
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.plan import Trial, trial_weights
from orchestrator.worker.data_parallel import Workers

Entries = dict[str, dict[str, Any]]


class CheckpointManager:
    """The newest sound checkpoints of the wave that a crew trains, under `checkpoints/<cohort>/<wave>/` of the run."""

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
        """Writes every worker's part, then the manifest; deletes what is too old. All workers call it together."""
        buffer = io.BytesIO()
        torch.save(entries, buffer)
        data = buffer.getvalue()
        folder = f"{self._folder}/{self._number:08d}"
        self._ledger.write_bytes(f"{folder}/rank{self._workers.rank}.pt", data)
        hashes = self._workers.gathered(hashlib.sha256(data).hexdigest())
        if self._workers.leads:
            manifest = {"world_size": self._workers.world_size, "sha256": hashes}
            self._ledger.write_bytes(f"{folder}/manifest.json", json.dumps(manifest).encode())
            for old in self._numbers()[: -self._kept]:
                self._ledger.delete(f"{self._folder}/{old:08d}")
        self._number += 1
        self._written_at = time.monotonic()

    def turn_to(self, wave: int, *, of_all: bool) -> Entries:
        """A wave begins: entries of its newest sound checkpoint; empty where there is none.

        Those of the wave before are deleted: a wave begins when all of that one is recorded.

        Args:
            wave: the wave's number.
            of_all: the entries of all workers, who had students of their own, and not this worker's alone.
        """
        if self._folder is not None and self._workers.leads:
            self._ledger.delete(self._folder)
        self._folder = f"{self._cohort}/{wave:04d}"
        found = self._workers.told(self._newest)
        numbers = self._workers.told(self._numbers)
        self._number = numbers[-1] + 1 if numbers else 0
        if found is None:
            return {}
        entries: Entries = {}
        for rank in range(self._workers.world_size) if of_all else (self._workers.rank,):
            path = f"{self._folder}/{found:08d}/rank{rank}.pt"
            data = self._ledger.read_bytes(path)
            with reading(self._ledger.place(path), "delete this checkpoint, and the one before it counts"):
                # on the host: which of them are on the device at a time is the seating's business
                entries |= torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return entries

    def _newest(self) -> int | None:
        for number in reversed(self._numbers()):
            manifest = self._manifest(number)
            if manifest is not None and manifest["world_size"] == self._workers.world_size:
                return number
        return None

    def _manifest(self, number: int) -> dict[str, Any] | None:
        """The manifest of a checkpoint whose every file is whole."""
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


def keep_model(
    ledger: Ledger, trial: Trial, student: Student, dataset: SegmentationDataset, licence: str | None
) -> None:
    """Writes a trained model with what is needed to use it: classes and their colours, windows, data set, trial."""
    recipe = trial.recipe
    notes = {
        "trial_id": trial.trial_id,
        "dataset": dataset.name,
        "pair": trial.pair,
        "method": trial.title,
        "seed": trial.seed,
        "licence": licence,
        "crop": list(recipe.augmentation.crop),
        "precision": recipe.precision,
    }
    window = recipe.sliding_window
    metadata = CheckpointMetadata(
        tuple(dataset.classes),
        palette=tuple(dataset.palette),
        window=None if window is None else {"size": window.size, "stride": window.stride},
        notes=notes,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(path, student.scored_model, metadata)
        ledger.write_bytes(trial_weights(trial), path.read_bytes())


def load_weights(
    ledger: Ledger, path: str, program_sha256: str | None, device: torch.device | str
) -> TeacherNetwork:
    """A frozen model or teacher from its file in the run; a program only if it is the one that the config names."""
    with ledger.local_file(path) as local:
        return load_teacher(local, program_sha256).to(device)
