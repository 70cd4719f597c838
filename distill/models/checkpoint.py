"""Self-describing checkpoints: a safetensors file with weights, architecture and metadata."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from distill.errors import UsageError, reading
from distill.models.model import ModelOptions, SegmentationModel, build_model
from distill.models.weight_files import MODEL_FORMAT, refuse_non_finite
from distill.normalisation import IMAGENET, Triple

Described = TypeVar("Described")
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class CheckpointMetadata:
    """Metadata of a checkpoint, in addition to weights and architecture.

    Attributes:
        classes: names of the classes, in the order of the logits.
        mean: per-channel mean that images (RGB in [0, 1]) are normalised with; ImageNet's by default.
        std: per-channel standard deviation of the same.
        palette: a colour (R, G, B) per class to draw label maps with; None if unknown.
        window: size and stride (height, width) of the sliding windows used in evaluation; None evaluates whole images.
        notes: any other JSON values (scores, recipe hash, data set).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    classes: tuple[str, ...]
    mean: Triple = IMAGENET.mean
    std: Triple = IMAGENET.std
    palette: tuple[tuple[int, int, int], ...] | None = None
    window: dict[str, tuple[int, int]] | None = None
    notes: dict[str, Any] = field(default_factory=dict)


def save_model(path: str | Path, model: SegmentationModel, metadata: CheckpointMetadata) -> None:
    """Write weights, architecture and metadata to one safetensors file, atomically.

    The header contains a hash of all three, by which `load_model` detects damage.

    Raises:
        UsageError: `metadata` does not have one name, or one colour, per class of the model.
    """
    if len(metadata.classes) != model.info.num_classes:
        raise UsageError(
            f"metadata names {len(metadata.classes)} classes, must name all {model.info.num_classes}"
        )
    if metadata.palette is not None and len(metadata.palette) != model.info.num_classes:
        raise UsageError(
            f"metadata has {len(metadata.palette)} colours, must have one for all {model.info.num_classes} classes"
        )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {
        "format": MODEL_FORMAT,
        "options": json.dumps(model.options.arguments(), sort_keys=True),
        "metadata": json.dumps(asdict(metadata), sort_keys=True),
    }
    header["sha256"] = _content_hash(tensors, header)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.write_bytes(save(tensors, header))
    os.replace(partial, target)


def load_model(path: str | Path) -> tuple[SegmentationModel, CheckpointMetadata]:
    """Load a saved model and its metadata. The model is on the CPU and in training mode, as from `build_model`.

    Nothing is unpickled or downloaded.

    Raises:
        UsageError: the file is missing, is not a checkpoint of this project, is damaged (its hash differs), or has
            weights that do not fit its options.
    """
    source = Path(path)
    if not source.is_file():
        raise UsageError(f"checkpoint '{source}' is not a file")
    place = f"checkpoint '{source}'"
    try:
        with safe_open(source, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UsageError(f"{place} is not a safetensors file: {error}; copy it again") from error
    if header.get("format") != MODEL_FORMAT:
        raise UsageError(
            f"{place} has format '{header.get('format')}', must be '{MODEL_FORMAT}': write it with save_model"
        )
    options = described(ModelOptions, header.get("options"), place)
    metadata = described(CheckpointMetadata, header.get("metadata"), place)
    if len(metadata.classes) != options.num_classes:
        raise UsageError(
            f"{place} names {len(metadata.classes)} classes and has {options.num_classes}, must name them all: "
            "write it with save_model"
        )
    model = filled(lambda: build_model(**options.arguments()), tensors, place)
    if header.get("sha256", written := _content_hash(tensors, header)) != written:
        raise UsageError(
            f"{place} is damaged: its content hashes to {written[:12]}…, must be {header['sha256'][:12]}…; "
            "fetch or export it again"
        )
    return model, metadata


def described(kind: type[Described], text: str | None, place: str) -> Described:
    """Parse a dataclass from the JSON text in a file's header.

    Raises:
        UsageError: the text is missing or invalid; the message names the first error.
    """
    try:
        return TypeAdapter(kind).validate_json(text or "")
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join([kind.__name__, *map(str, fault["loc"])])
        raise UsageError(
            f"{place} describes itself wrongly: {where}: {fault['msg']}; write it again, or take another file"
        ) from error


def filled(build: Callable[[], Network], tensors: Mapping[str, Tensor], place: str) -> Network:
    """The network of a file's description, with the file's tensors loaded.

    The network is first built on the meta device, because a description may ask for any size while the tensors are no
    larger than their file. Its parameters then become copies of the tensors. A network with tensors that are in no
    state dict is built a second time, with memory.

    Raises:
        UsageError: the network cannot be built, the tensors are not the ones it needs, or one has nan or inf.
    """
    with reading(place, "its description must be one that this program can build; write it again"):
        with torch.device("meta"):
            network = build()
        needed = network.state_dict(keep_vars=True)
        wanted = {name: tuple(tensor.shape) for name, tensor in needed.items()}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        differing = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        if differing:
            name = differing[0]
            raise UsageError(
                f"{place} does not fit its own description: of {len({*wanted, *found})} tensors {len(differing)} "
                f"differ, first {name}: {found.get(name, 'none')}, must be {wanted.get(name, 'left out')}; take the "
                "file of this model"
            )
        refuse_non_finite(tensors, place)
        if _holds_more(network, needed):
            network = build()
            network.load_state_dict(dict(tensors))
        else:
            network.load_state_dict(
                {name: _own(tensors[name], needed[name].dtype) for name in needed}, assign=True
            )
    return network


def _own(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy in memory aligned by torch: the alignment of a file's tensors changes the last bits of products."""
    return torch.empty(tensor.shape, dtype=dtype).copy_(tensor)


def _holds_more(network: nn.Module, saved: Mapping[str, Tensor]) -> bool:
    """Whether a network has tensors that are not in its state dict, such as tables computed in its constructor."""
    known = {id(tensor) for tensor in saved.values()}
    return any(
        isinstance(value, Tensor) and id(value) not in known
        for module in network.modules()
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values())
    )


def _content_hash(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """sha256 over names, types, shapes and bytes of all tensors, and over the rest of the header."""
    found = hashlib.sha256()
    for name in sorted(header.keys() - {"sha256"}):
        found.update(f"{name}\0{header[name]}\0".encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
