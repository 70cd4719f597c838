"""Finds the model to export: a student of a run, by its leaderboard, or a model file."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from distill.errors import UsageError, unknown
from distill.models import CheckpointMetadata, SegmentationModel, load_model

STUDENTS = "leaderboard/students.json"
"""File with the selected student of each pair and method; `orchestrator.leaderboard` writes it."""


@dataclass(frozen=True)
class Source:
    """A model with its metadata; `row` is its row of the leaderboard, or None for a model file."""

    model: SegmentationModel
    metadata: CheckpointMetadata
    name: str
    row: dict[str, Any] | None


def read_source(place: str, pair: str | None, method: str | None, compare: str | None = None) -> Source:
    """Read the model to export.

    Args:
        place: a run's folder on any file system of pyarrow, or a model file (`.safetensors`) on disk.
        pair: the pair; may be None if the run has only one.
        method: the method; None selects the pair's best on the leaderboard.
        compare: `steps` or `seconds`, where the run has a leaderboard of each; None selects the first one.

    Raises:
        UsageError: the run, leaderboard, pair, method or weights do not exist, or the file is not a model.
    """
    if place.endswith(".safetensors"):
        if (pair, method, compare) != (None, None, None):
            raise UsageError(
                f"{place} is one model; --pair, --method and --compare choose from a run's folder"
            )
        model, metadata = load_model(place)
        return Source(model, metadata, Path(place).stem, None)
    run = _Run(place)
    row = _row(run, pair, method, compare)
    if row["checkpoint"] is None:
        raise UsageError(
            f"{run}: no weights were saved for {row['method']} on {row['pair']}; run the sweep again"
        )
    model, metadata = _load(run, row["checkpoint"])
    if metadata.notes.get("trial_id", row["trial_id"]) != row["trial_id"]:
        raise UsageError(
            f"{run}/{row['checkpoint']} holds trial {metadata.notes['trial_id']}, must hold {row['trial_id']}, which "
            "the board names; make the board again: python -m orchestrator.leaderboard RUN"
        )
    return Source(model, metadata, row["pair"], row)


def _row(run: _Run, pair: str | None, method: str | None, compare: str | None) -> dict[str, Any]:
    text = run.read(STUDENTS)
    if text is None:
        raise UsageError(
            f"{run} holds no {STUDENTS}: give a run's folder (its --output) or a .safetensors file; of an older run "
            "make the board again: python -m orchestrator.leaderboard RUN"
        )
    rows: list[dict[str, Any]] = json.loads(text)
    pairs = sorted({row["pair"] for row in rows})
    if not pairs:
        raise UsageError(f"{run} has no finished final run yet; end the sweep first")
    if pair is None and len(pairs) > 1:
        raise UsageError(f"{run} has {len(pairs)} pairs; choose one with --pair: {', '.join(pairs)}")
    chosen = pairs[0] if pair is None else pair
    if chosen not in pairs:
        raise unknown("pair", chosen, pairs)
    mine = [row for row in rows if row["pair"] == chosen]
    bases = list(dict.fromkeys(_basis(row) for row in mine))
    if compare is not None and compare not in bases:
        raise UsageError(
            f"{run} compares methods at equal {' and equal '.join(bases)}; --compare is {compare}"
        )
    mine = [row for row in mine if _basis(row) == (compare or bases[0])]
    if len(boards := sorted({(row["dataset"], row["recipe_hash"]) for row in mine})) > 1:
        raise UsageError(
            f"pair '{chosen}' is on {len(boards)} leaderboards of {run}; give the model file instead"
        )
    if method is None:
        return next(row for row in mine if row["best"])
    named = {row["method"]: row for row in mine}
    if method not in named:
        raise unknown(f"method on {chosen}", method, named)
    return named[method]


def _basis(row: dict[str, Any]) -> str:
    """What the methods of the row's leaderboard have equally much of; files of older versions do not have it."""
    return str(row.get("compare", "steps"))


def _load(run: _Run, path: str) -> tuple[SegmentationModel, CheckpointMetadata]:
    data = run.read(path)
    if data is None:
        raise UsageError(f"{run}/{path} is missing, must hold the student's weights; run the sweep again")
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / Path(path).name
        local.write_bytes(data)
        return load_model(local)


class _Run:
    """A run's folder on any file system."""

    def __init__(self, root: str) -> None:
        try:
            found: tuple[pyarrow.fs.FileSystem, str] = (
                pyarrow.fs.FileSystem.from_uri(root)
                if "://" in root
                else (pyarrow.fs.LocalFileSystem(), str(Path(root).expanduser().absolute()))
            )
        except (pa.ArrowInvalid, ValueError) as error:
            raise UsageError(
                f"'{root}' cannot be opened: {error}. Use a local path, s3://bucket/folder or gs://bucket/folder."
            ) from error
        self._files, self._path = found
        self._shown = re.sub(r"^(\w+://)[^/@]*@", r"\1", root.partition("?")[0]).rstrip("/")

    def __str__(self) -> str:
        return self._shown

    def read(self, path: str) -> bytes | None:
        """A file's content; None if it does not exist."""
        try:
            with self._files.open_input_stream(
                f"{self._path.rstrip('/')}/{path}", compression=None
            ) as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UsageError(f"{self}/{path} cannot be read: {error}") from error
