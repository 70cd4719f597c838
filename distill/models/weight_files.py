"""Reads files of weights as plain tensors: safetensors, or `torch.load(weights_only=True)`. No pickled code is run."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from distill.errors import UsageError, reading, unknown
from distill.models.weight_layouts import NESTS, State, is_computed
from distill.normalisation import IMAGENET, Normalisation, normalisation_of

MODEL_FORMAT = "distill-segmentation-1"
"""Mark of a model file of this program."""


@dataclass(frozen=True)
class WeightFile:
    """A state dict and its origin.

    Attributes:
        path: the file.
        sha256: hash of its bytes.
        key: the key in the file under which the tensors are; empty if the file is a state dict itself.
        tensors: the tensors by name.
        normalisation: what they were trained with, as a model file of this program says; None in all other files.
    """

    path: Path
    sha256: str
    key: str
    tensors: State
    normalisation: Normalisation | None = None


class _Beside:
    """Takes the place of an object that a training program saved beside the weights; it has no content."""

    def __init__(self, *ignored: object) -> None:
        pass

    def __setstate__(self, ignored: object) -> None:
        pass


# Objects that are common beside weights. Each is read as `_Beside`: the classes named here are never called.
_BESIDE: list[Any] = [
    (_Beside, name)
    for name in (
        "argparse.Namespace", "pathlib.PosixPath", "pathlib._local.PosixPath", "numpy.dtype",
        "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "easydict.EasyDict",
        "pytorch_lightning.utilities.parsing.AttributeDict", "lightning.pytorch.utilities.parsing.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict",
    )
]  # fmt: skip


def read_weight_file(path: Path, key: str | None = None, sha256: str | None = None) -> WeightFile:
    """Read the state dict of a file, which may be under one of the keys `NESTS`.

    Args:
        path: a safetensors file, or a file of `torch.save`.
        key: the key of the weights, if the file has several sets of them; parts are separated by dots.
        sha256: the hash that the file must have; None accepts any.

    Raises:
        UsageError: the file is missing, has another hash, cannot be read as plain tensors, has no or several sets of
            weights, or a weight is nan or infinite.
    """
    if not path.is_file():
        raise UsageError(
            f"'{path}' is not a file: give the path of an existing .safetensors, .pth, .pt or .bin file"
        )
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise UsageError(f"'{path}' has sha256 {found}, the config demands {sha256}")
    with reading(f"'{path}' as plain tensors", "save its state dict alone, as safetensors"):
        taken, tensors = _choose(_document(data, f"'{path}'"), key, f"'{path}'")
        refuse_non_finite(tensors, f"'{path}'")
        normalisation = _own_normalisation(data)
    return WeightFile(path, found, taken, tensors, normalisation)


def refuse_non_finite(tensors: Mapping[str, Tensor], place: str) -> None:
    """Refuse weights that are nan or infinite.

    Raises:
        UsageError: names the first such tensor, and how many there are.
    """
    bad = [name for name, tensor in tensors.items() if not is_computed(name) and not _is_finite(tensor)]
    if bad:
        raise UsageError(
            f"{place} holds nan or inf in {len(bad)} of {len(tensors)} tensors, first {bad[0]}: every weight must be "
            "finite; take a checkpoint from before the training diverged"
        )


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    return bool(torch.isfinite(tensor if tensor.element_size() > 1 else tensor.float()).all())


def _own_normalisation(data: bytes) -> Normalisation | None:
    """The normalisation of the backbone in a file of `save_model`; None for other files."""
    if not _is_safetensors(data):
        return None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    if header.get("format") != MODEL_FORMAT:
        return None
    return normalisation_of(json.loads(header["options"]).get("normalisation") or IMAGENET)


def _is_safetensors(data: bytes) -> bool:
    return data[8:9] == b"{"  # the first byte of the header; the suffix of the file's name may be any


def _document(data: bytes, place: str) -> Any:
    if _is_safetensors(data):
        return load_safetensors(data)
    try:
        with torch.serialization.safe_globals(_BESIDE):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        objects = _objects(data)
        if not objects:
            raise
        raise UsageError(
            f"{place} as plain tensors cannot be read: it holds Python objects "
            f"({', '.join(objects[:3])}), which would run code; where you trust it, load it and save "
            "`model.state_dict()` alone"
        ) from error


def _objects(data: bytes) -> list[str]:
    """Names of the pickled classes and functions that are not allowed; found without running anything."""
    try:
        with torch.serialization.safe_globals(_BESIDE):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)))
    except Exception:  # the bytes are untrusted, and may be of a format that this function does not know
        return []


def _choose(document: Any, key: str | None, place: str) -> tuple[str, State]:
    """The state dict in a document, and the key it is under."""
    if key is not None:
        for part in key.split("."):
            if not isinstance(document, Mapping):
                raise UsageError(f"{place} has nothing under the key '{key}'")
            if part not in document:
                raise unknown(f"key of {place}", part, map(str, document))
            document = document[part]
        under, tensors = _choose(document, None, f"{place} under the key '{key}'")
        return (f"{key}.{under}" if under else key), tensors
    if _is_state(document):
        return "", dict(document)
    if not isinstance(document, Mapping):
        raise UsageError(
            f"{place} is no state dict: it holds a {type(document).__name__}, must map names to tensors"
        )
    sets = {str(name): value for name, value in document.items() if _has_state(value)}
    declared = [name for name in sets if name in NESTS]
    if len(sets) == 1 and declared:
        under, tensors = _choose(sets[declared[0]], None, place)
        return (f"{declared[0]}.{under}" if under else declared[0]), tensors
    if sets:
        choice = f"one of {', '.join(sets)}" if len(sets) > 1 else next(iter(sets))
        several = "several sets of weights" if len(sets) > 1 else "weights under a key of its own"
        raise UsageError(f"{place} has {several} ({', '.join(sets)}): give `key`, {choice}")
    others = [str(name) for name, value in document.items() if not isinstance(value, Tensor)]
    raise UsageError(
        f"{place} is no state dict: it must map names to tensors, and has no tensors under "
        f"{', '.join(others[:5]) or 'any name'}; give a file with weights, alone or under one of {', '.join(NESTS[:4])}"
    )


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def _has_state(value: Any) -> bool:
    """Whether a value is a state dict, or has one under a declared key."""
    return _is_state(value) or (
        isinstance(value, Mapping)
        and any(name in NESTS and _has_state(inner) for name, inner in value.items())
    )
