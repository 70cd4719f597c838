"""Memory of models on a GPU, from a table that `python -m distill.testing.model_memory` writes. Does not import torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("model_memory.json")
WEIGHT_COPY_BYTES = {"fp32": 0, "bf16": 2}
"""Bytes of the copy of a weight that autocast keeps for the backward pass, by precision."""
_ARCHITECTURE = ("output_stride", "head_channels", "backbone_args")


@dataclass(frozen=True)
class ModelMemory:
    """Bytes per pixel of a batch.

    Attributes:
        training: kept from the forward pass for the backward pass, copies of weights not counted.
        inference: in use at the peak of a pass without gradients.
    """

    training: float
    inference: float


def key_of(name: str, options: Mapping[str, Any], precision: str) -> str:
    """Key of a model in the table: what decides the shapes and types of its maps, but for the number of classes."""
    chosen = {key: options[key] for key in _ARCHITECTURE if options.get(key)}
    return f"{name} {json.dumps(chosen, sort_keys=True)} {precision}"


def model_memory(name: str, options: Mapping[str, Any], precision: str) -> ModelMemory | None:
    """The memory of a model; None if the table lacks it."""
    found = _table().get(key_of(name, options, precision))
    return None if found is None else ModelMemory(**found)


@lru_cache(maxsize=1)
def _table() -> Mapping[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = (
        json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    )
    return found
