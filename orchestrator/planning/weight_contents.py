"""Content of the files of weights that a sweep names. Ids depend on it, and not on the folder that the files are in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distill.errors import reading
from distill.recipe import digest
from distill.teacher_source import files_of
from orchestrator.planning.config import SweepConfig


def weight_contents(config: SweepConfig, recorded: Mapping[str, str]) -> dict[str, str]:
    """Hash of the content of each checkpoint and each file of pretrained weights, by its path in the config.

    A name on the Hugging Face hub has none, and neither has a file that this machine does not have and did not have before.

    Args:
        config: the sweep.
        recorded: result of an earlier command of the same run. It counts for files that are gone since: a run resumes
            without its checkpoints.

    Raises:
        UsageError: a file cannot be read.
    """
    found = {}
    for path, files in _weights(config):
        if files:
            found[path] = _content(files)
        elif path in recorded:
            found[path] = recorded[path]
    return found


def with_contents(values: Any, contents: Mapping[str, str]) -> Any:
    """Values to hash, in which the content of a file takes the place of its path."""
    if isinstance(values, dict):
        return {key: with_contents(value, contents) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [with_contents(value, contents) for value in values]
    return f"sha256:{contents[values]}" if isinstance(values, str) and values in contents else values


def _weights(config: SweepConfig) -> Iterator[tuple[str, list[Path]]]:
    for pair in config.pairs:
        if pair.teacher.checkpoint is not None:
            yield pair.teacher.checkpoint.path, files_of(pair.teacher.checkpoint)
        for _, model in pair.models:
            if model.weights_file is not None:
                yield model.weights_file.path, files_of(model.weights_file)


def _content(files: list[Path]) -> str:
    """Hash of a file, or of the files of a folder with their names."""
    hashes = {}
    for path in files:
        with reading(f"'{path}'", "give a file that you may read"), path.open("rb") as stream:
            hashes[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return next(iter(hashes.values())) if len(hashes) == 1 else digest(hashes, 64)
