"""Self-describing checkpoints: weights by safetensors, and what is needed to build and use the model."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from distill.errors import UsageError
from distill.models.model import ModelOptions, SegmentationModel, build_model

_FORMAT = "distill-segmentation-1"


@dataclass(frozen=True)
class CheckpointMetadata:
    """What a checkpoint says besides its weights and architecture.

    Attributes:
        classes: names of the classes, in the order of the logits.
        mean: per-channel mean that images (RGB in [0, 1]) are normalised with; ImageNet's by default.
        std: per-channel standard deviation of the same.
        notes: anything else worth keeping, JSON values only (scores, recipe hash, data set).
    """

    classes: tuple[str, ...]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    notes: dict[str, Any] = field(default_factory=dict)


def save_model(path: str | Path, model: SegmentationModel, metadata: CheckpointMetadata) -> None:
    """Write weights, architecture and metadata to one safetensors file; the file appears whole or not at all.

    Raises:
        UsageError: when `metadata.classes` does not have one name for each of the model's classes.
    """
    if len(metadata.classes) != model.info.num_classes:
        raise UsageError(
            f"metadata names {len(metadata.classes)} classes, must name all {model.info.num_classes}"
        )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {
        "format": _FORMAT,
        "options": json.dumps(asdict(model.options), sort_keys=True),
        "metadata": json.dumps(asdict(metadata), sort_keys=True),
    }
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.write_bytes(save(tensors, header))
    os.replace(partial, target)


def load_model(path: str | Path) -> tuple[SegmentationModel, CheckpointMetadata]:
    """Rebuild a saved model on the CPU, in training mode as `build_model` returns it, with its metadata.

    Nothing is unpickled and nothing is downloaded.

    Raises:
        UsageError: no such file, not a checkpoint of this project, or weights that do not fit its options.
    """
    source = Path(path)
    if not source.is_file():
        raise UsageError(f"checkpoint '{source}' is not a file")
    try:
        with safe_open(source, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UsageError(f"checkpoint '{source}' is not a safetensors file: {error}") from error
    if header.get("format") != _FORMAT:
        raise UsageError(
            f"checkpoint '{source}' has format '{header.get('format')}', must be '{_FORMAT}': "
            "write it with save_model"
        )
    options = ModelOptions(**json.loads(header["options"]))
    model = build_model(**asdict(options))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UsageError(f"checkpoint '{source}' does not fit its own description: {error}") from error
    values = json.loads(header["metadata"])
    metadata = CheckpointMetadata(
        tuple(values["classes"]), tuple(values["mean"]), tuple(values["std"]), values["notes"]
    )
    return model, metadata
