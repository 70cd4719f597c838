"""Files of pretrained backbone weights: checked before the start, and described for provenance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from distill.errors import UsageError
from distill.teacher_source import BackboneFile
from orchestrator.planning.config import ModelConfig, SweepConfig


def check_pretrained(config: SweepConfig, *, on_other_nodes: bool) -> None:
    """Check that each file of pretrained weights has every tensor of its backbone.

    Args:
        config: the sweep.
        on_other_nodes: whether the files may be on other nodes only; then `Preflight` finds a missing one.

    Raises:
        UsageError: a file is missing or does not fit; the message names the pair.
    """
    for place, model, file in _files(config):
        if on_other_nodes and not Path(file.path).is_file():
            continue
        try:
            _description(model, file)
        except UsageError as error:
            raise UsageError(f"{place}: {error}") from error


def pretrained_weights(config: SweepConfig) -> dict[str, dict[str, Any]]:
    """Origin of the pretrained weights of each pair's models, by `PAIR.teacher` and `PAIR.student`.

    A file that this node does not have is given by its path alone.
    """
    return {
        place: _description(model, file) if Path(file.path).is_file() else {"file": file.path}
        for place, model, file in _files(config)
    }


def _files(config: SweepConfig) -> Iterator[tuple[str, ModelConfig, BackboneFile]]:
    for pair in config.pairs:
        for role, model in pair.models:
            if model.weights_file is not None:
                yield f"{pair.label}.{role}", model, model.weights_file


def _description(model: ModelConfig, file: BackboneFile) -> dict[str, Any]:
    path = Path(file.path)
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    backbone = model.model.partition("-")[2]
    return dict(_checked(backbone, json.dumps(model.backbone_args, sort_keys=True), path, file.key, changed))


@lru_cache(maxsize=256)
def _checked(backbone: str, arguments: str, path: Path, key: str | None, changed: int) -> dict[str, Any]:
    """`changed` is the time of the file's last change: a file is checked once, unless it changes."""
    from distill.models.backbones import check_weights
    from distill.models.pretrained import WeightsPath

    return asdict(check_weights(backbone, WeightsPath(path, key), json.loads(arguments)))
