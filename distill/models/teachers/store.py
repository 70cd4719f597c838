"""The file format of teachers: safetensors, with everything needed to rebuild the teacher offline."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from distill.errors import UsageError, reading
from distill.models.checkpoint import described, filled, load_model
from distill.models.model import SegmentationModel, build_model
from distill.models.output import ModelInfo
from distill.models.teachers.hub import build_network
from distill.models.teachers.programs import load_program
from distill.models.teachers.teacher import TeacherDescription, TeacherModel
from distill.teacher_source import Taps

_FORMAT = "distill-teacher-1"
_PROGRAM = "program"
_PROGRAMS = ("torchscript", "export")

TeacherNetwork = SegmentationModel | TeacherModel
"""A frozen teacher: a model of this project, or a wrapped network from another library."""


@dataclass(frozen=True)
class ReadTeacher:
    """A teacher from another library, with the bytes of its TorchScript or torch.export program if it has one."""

    model: TeacherModel
    program: bytes | None


def save_teacher(path: str | Path, teacher: TeacherModel, program: bytes | None = None) -> None:
    """Write a teacher to one safetensors file, atomically; a program is stored as its bytes."""
    tensors: dict[str, Tensor]
    if program is not None:
        tensors = {_PROGRAM: torch.frombuffer(bytearray(program), dtype=torch.uint8)}
    else:
        tensors = {name: value.contiguous() for name, value in teacher.network.state_dict().items()}
    header = {
        "format": _FORMAT,
        "description": json.dumps(asdict(teacher.description), sort_keys=True),
        "info": json.dumps(asdict(teacher.info), sort_keys=True),
    }
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.write_bytes(save(tensors, header))
    os.replace(partial, target)


def load_teacher(path: str | Path, program_sha256: str | None = None) -> TeacherNetwork:
    """Load a teacher onto the CPU from a file of `save_teacher` or `save_model`.

    Nothing is unpickled or downloaded. A program is code, so it is loaded only if its hash is the given one.

    Raises:
        UsageError: the file is missing or of another kind, or its program has another hash.
    """
    found = open_teacher(path, program_sha256)
    return load_model(path)[0] if found is None else found.model


def open_teacher(path: str | Path, program_sha256: str | None = None) -> ReadTeacher | None:
    """Load a file of `save_teacher`; None if the file is of another kind.

    Raises:
        UsageError: the file is missing, is not a safetensors file, has an invalid description, or its program has
            another hash than `program_sha256`.
    """
    source = Path(path)
    if not source.is_file():
        raise UsageError(f"teacher '{source}' is not a file")
    try:
        with safe_open(source, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            if header.get("format") != _FORMAT:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UsageError(
            f"teacher '{source}' is not a safetensors file, as runs of this program write them: {error}; copy it again, or "
            "give the kind of another program's file, such as checkpoint: {kind: torchvision, path: FILE} (docs/models.md)"
        ) from error
    place = f"teacher '{source}'"
    description = described(TeacherDescription, header.get("description"), place)
    info = described(ModelInfo, header.get("info"), place)
    with reading(place, "it must be as save_teacher wrote it; write it again"):
        program = None
        if description.kind in _PROGRAMS:
            program = tensors[_PROGRAM].numpy().tobytes()
            _check_program_hash(place, description.kind, program, program_sha256)
        network = _network(description, tensors, program, place)
        return ReadTeacher(TeacherModel(network, description, info), program)


def _check_program_hash(place: str, kind: str, program: bytes, demanded: str | None) -> None:
    found = hashlib.sha256(program).hexdigest()
    if found != demanded:
        raise UsageError(
            f"{place} holds a {kind} program with sha256 {found}, which runs as it is: `sha256` is {demanded}, must be "
            "the program's; give it if you trust who wrote the program"
        )


def _network(
    description: TeacherDescription, tensors: dict[str, Tensor], program: bytes | None, place: str
) -> nn.Module:
    made = description.network
    if program is not None:
        return load_program(description.kind, program, Taps.model_validate(made["taps"]))

    def build() -> nn.Module:
        return build_model(**made) if description.kind == "model" else build_network(made)

    return filled(build, tensors, place).eval()
