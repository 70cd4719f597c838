"""Reads a teacher from its configured source and checks it against the data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from distill.errors import UsageError, reading
from distill.models.checkpoint import CheckpointMetadata, load_model
from distill.models.families import Family
from distill.models.teachers.conversion import model_from_torchvision, segformer_from_transformers
from distill.models.teachers.hub import build_network, family_of_config
from distill.models.teachers.probe import probe
from distill.models.teachers.processor import normalisation
from distill.models.teachers.programs import load_program
from distill.models.teachers.store import ReadTeacher, open_teacher
from distill.models.teachers.teacher import (
    UNNAMED,
    Kind,
    TeacherDescription,
    TeacherModel,
    group_classes,
)
from distill.models.weight_files import read_weight_file, refuse_non_finite
from distill.models.weight_layouts import unwrapped
from distill.normalisation import Triple
from distill.teacher_source import (
    PROCESSOR_FILES,
    WEIGHT_FILES,
    ClassMap,
    ProgramSource,
    RunSource,
    TeacherSource,
    TorchvisionSource,
    TransformersSource,
)


@dataclass(frozen=True)
class _Found:
    """A network that is not checked against the data set yet."""

    network: nn.Module
    description: TeacherDescription
    program: bytes | None = None


def read_teacher(
    name: str,
    source: TeacherSource,
    *,
    classes: Sequence[str],
    class_map: ClassMap | None,
    sizes: Sequence[tuple[int, int]],
    sha256: str | None = None,
) -> ReadTeacher:
    """Read a teacher from its source; the result is frozen and on the CPU.

    Args:
        name: name on the leaderboard; for a `torchvision` source also the name of the model.
        source: the configured source.
        classes: the data set's classes, in order.
        class_map: the teacher's classes that make up each class of the data set; None if the classes are the same.
        sizes: heights and widths of the images that the teacher must accept.
        sha256: required hash of the weights file; None accepts any.

    Raises:
        UsageError: the file is missing, has another hash or an unknown format, or does not fit classes or sizes.
    """
    try:
        with reading("its file", "take one that its writer's own library reads"):
            found = _find(name, source, sha256)
        grouping = group_classes(found.description.classes, classes, class_map)
        description = replace(found.description, grouping=grouping)
        network = found.network.eval()
        info = probe(network, description, len(classes), sizes)
    except UsageError as error:
        raise UsageError(f"teacher '{name}' ({source.kind} '{source.path}'): {error}") from error
    return ReadTeacher(TeacherModel(network, description, info), found.program)


def _find(name: str, source: TeacherSource, sha256: str | None) -> _Found:
    if isinstance(source, RunSource):
        return _from_run(name, source, sha256)
    if isinstance(source, TransformersSource):
        return _from_transformers(name, source, sha256)
    if isinstance(source, TorchvisionSource):
        return _from_torchvision(name, source, sha256)
    return _from_program(name, source, sha256)


def _from_run(name: str, source: RunSource, sha256: str | None) -> _Found:
    _checked(Path(source.path), None)
    saved = open_teacher(source.path, sha256)
    if saved is None or saved.program is None:  # open_teacher checked the hash of a program
        _checked(Path(source.path), sha256)
    if saved is not None:  # that run's teacher was itself read from another library
        return _Found(saved.model.network, replace(saved.model.description, name=name), saved.program)
    model, metadata = load_model(source.path)
    described = _describe(
        name,
        "model",
        model.options.arguments(),
        model.info.family,
        metadata.classes,
        metadata.mean,
        metadata.std,
    )
    return _Found(model, described)


def _from_transformers(name: str, source: TransformersSource, sha256: str | None) -> _Found:
    folder = _local_folder(source)
    config = json.loads(_checked(folder / "config.json", None))
    weights = _weights_file(folder)
    mean, std = normalisation(folder, str(config.get("model_type")))
    network: nn.Module
    kind: Kind
    if config.get("model_type") == "segformer":
        converted = segformer_from_transformers(config, read_weight_file(weights, sha256=sha256).tensors)
        network, kind, made = converted, "model", converted.options.arguments()
        count = converted.info.num_classes
    else:
        hub = build_network(config)
        _checked(weights, sha256)
        hub.load_pretrained(folder)
        refuse_non_finite(hub.model.state_dict(), f"'{weights}'")
        network, kind, made, count = hub, "transformers", config, int(hub.model.config.num_labels)
    labels = config.get("id2label") or {}
    names = tuple(str(labels.get(str(i), f"{UNNAMED}{i}")) for i in range(count))
    described = _describe(name, kind, made, family_of_config(config), names, mean, std)
    return _Found(network, described)


def _from_torchvision(name: str, source: TorchvisionSource, sha256: str | None) -> _Found:
    file = read_weight_file(Path(source.path), source.key, sha256)
    model = model_from_torchvision(name, unwrapped(file.tensors), source.output_stride)
    names = source.classes or _numbers(model.info.num_classes)
    described = _describe(
        name,
        "model",
        model.options.arguments(),
        model.info.family,
        names,
        CheckpointMetadata.mean,
        CheckpointMetadata.std,
    )
    return _Found(model, described)


def _from_program(name: str, source: ProgramSource, sha256: str | None) -> _Found:
    data = _checked(Path(source.path), sha256)
    network = load_program(source.kind, data, source.taps)
    names = _numbers(source.classes) if isinstance(source.classes, int) else source.classes
    made = {"taps": source.taps.model_dump(mode="json")}
    described = _describe(name, source.kind, made, source.family, names, source.mean, source.std)
    return _Found(network, described, data)


def _describe(
    name: str,
    kind: Kind,
    made: dict[str, Any],
    family: Family,
    classes: Sequence[str],
    mean: Triple,
    std: Triple,
) -> TeacherDescription:
    return TeacherDescription(name, kind, made, family, tuple(classes), mean, std)


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(count))


def _checked(path: Path, sha256: str | None) -> bytes:
    """A file's bytes; raises UsageError if their hash is not the required one."""
    if not path.is_file():
        found = "is not a file" if path.exists() else "does not exist"
        raise UsageError(f"'{path}' {found}; give the path of an existing file")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise UsageError(f"'{path}' has sha256 {found}, the config demands {sha256}")
    return data


def _local_folder(source: TransformersSource) -> Path:
    """The local folder, or the hub's snapshot of that name, downloaded if it is not cached."""
    folder = Path(source.path)
    if folder.is_dir():
        return folder
    if source.path.count("/") != 1 or source.path.startswith((".", "/", "~")):
        raise UsageError(
            "no such folder; give one that `save_pretrained` wrote, or a name on the hub: owner/name"
        )
    from huggingface_hub import snapshot_download

    configs = ["config.json", *PROCESSOR_FILES]
    for weights in WEIGHT_FILES:
        try:
            found = Path(
                snapshot_download(source.path, revision=source.revision, allow_patterns=[*configs, weights])
            )
        except (OSError, ValueError, RuntimeError) as error:
            first_line = str(error).partition("\n")[0]
            raise UsageError(
                f"the hub cannot be asked for it: {first_line}. Download the folder and give its path"
            ) from error
        if (found / weights).is_file():
            return found
    return found


def _weights_file(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise UsageError(
        f"'{folder}' holds neither {' nor '.join(WEIGHT_FILES)}; save the model again in one piece: "
        "save_pretrained(folder, max_shard_size='100GB')"
    )
