"""Checkpoints and models from elsewhere: any bytes in them are read or refused by name, and nothing in them is run."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from distill.errors import UsageError
from distill.models import CheckpointMetadata, build_model, load_model, save_model
from distill.models.teachers import load_teacher, read_teacher, save_teacher
from distill.teacher_source import TeacherSource
from tests.fuzz.fuzzing import answers, damaged, fingerprint, fuzz, value

MODEL = {"name": "deeplabv3-test_resnet", "head_channels": 4}
CLASSES = ("a", "b")
SIZES = [(32, 32)]


def source(**fields: Any) -> Any:
    return TypeAdapter(TeacherSource).validate_python(fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of ours, a kept teacher, a torchvision-like state dict, backbone weights and a folder of transformers."""
    root = tmp_path_factory.mktemp("weights")
    model = build_model(**MODEL, num_classes=2)
    save_model(root / "model.safetensors", model, CheckpointMetadata(CLASSES, notes={"seed": 1}))
    read = read_teacher(
        "t",
        source(kind="run", path=str(root / "model.safetensors")),
        classes=CLASSES,
        class_map=None,
        sizes=SIZES,
    )
    save_teacher(root / "teacher.safetensors", read.model)
    state = {"classifier.4.weight": torch.zeros(2, 3, 1, 1), "backbone.conv1.weight": torch.zeros(2, 2)}
    torch.save({"state_dict": state}, root / "weights.pth")
    torch.save(build_model(**MODEL, num_classes=2).backbone.network.state_dict(), root / "backbone.pth")
    (root / "hub").mkdir()
    (root / "hub" / "config.json").write_text(json.dumps(SEGFORMER))
    torch.save(
        {"decode_head.classifier.weight": torch.zeros(2, 16, 1, 1)}, root / "hub" / "pytorch_model.bin"
    )
    (root / "hub" / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5, 0.5, 0.5]}))
    return root


SEGFORMER = {
    "model_type": "segformer", "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1],
    "mlp_ratios": [4, 4, 4, 4], "decoder_hidden_size": 16, "id2label": {"0": "a", "1": "b"},
}  # fmt: skip


def read_model(path: Path) -> None:
    load_model(path)


def read_kept(path: Path) -> None:
    load_teacher(path)


def read_as(kind: str, name: str = "fcn-resnet50", **more: Any) -> Any:
    def read(path: Path) -> None:
        found = source(kind=kind, path=str(path), **more)
        read_teacher(name, found, classes=CLASSES, class_map=None, sizes=SIZES)

    return read


def read_folder(path: Path) -> None:
    read_as("transformers")(path.parent)


def read_backbone(path: Path) -> None:
    build_model(**MODEL, num_classes=2, pretrained=path)


READERS = {
    "model.safetensors": (read_model, read_as("run")),
    "teacher.safetensors": (read_kept, read_as("run")),
    "weights.pth": (read_as("torchvision"),),
    "backbone.pth": (read_backbone,),
    "hub/config.json": (read_folder,),
    "hub/pytorch_model.bin": (read_folder,),
    "hub/preprocessor_config.json": (read_folder,),
}


def read_with(folder: Path, name: str, data: bytes) -> None:
    """Every reader of the file is given these bytes in it."""
    path = folder / name
    sound = path.read_bytes()
    path.write_bytes(data)
    before = fingerprint(folder)
    try:
        for reader in READERS[name]:
            answers(f"weights: {name}", lambda read=reader: read(path))
        assert fingerprint(folder) == before
    finally:
        path.write_bytes(sound)


@pytest.mark.parametrize("name", ["model.safetensors", "teacher.safetensors", "backbone.pth"])
def test_the_files_that_are_damaged_are_sound(folder: Path, name: str) -> None:
    for reader in READERS[name]:
        assert answers(f"weights: {name}", lambda read=reader: read(folder / name))


@fuzz(120, data=st.data(), name=st.sampled_from(sorted(READERS)))
def test_a_damaged_file_of_weights_is_read_or_refused(folder: Path, data: Any, name: str) -> None:
    read_with(
        folder, name, data.draw(st.one_of(damaged((folder / name).read_bytes()), st.binary(max_size=64)))
    )


@st.composite
def changed_json(draw: st.DrawFn, document: Any) -> str:
    """JSON with a value somewhere in it changed, taken out or put in."""
    document = json.loads(json.dumps(document))
    node, key = document, None
    while isinstance(node, dict | list) and node and (key is None or draw(st.booleans())):
        parent = node
        key = (
            draw(st.sampled_from(sorted(node)))
            if isinstance(node, dict)
            else draw(st.integers(0, len(node) - 1))
        )
        node = node[key]
    if key is None:
        return json.dumps(draw(value), default=repr, skipkeys=True)
    if draw(st.integers(0, 3)) == 0:
        del parent[key]
    else:
        parent[key] = draw(value)
    return json.dumps(document, default=repr, skipkeys=True)


def with_header(data: bytes, changes: dict[str, str]) -> bytes:
    """A safetensors file with other metadata: eight bytes of length, JSON, tensors."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = {**header["__metadata__"], **changes}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


@fuzz(150, data=st.data(), name=st.sampled_from(("model.safetensors", "teacher.safetensors")))
def test_wrong_metadata_of_a_checkpoint_is_refused(folder: Path, data: Any, name: str) -> None:
    sound = (folder / name).read_bytes()
    length = struct.unpack("<Q", sound[:8])[0]
    metadata = json.loads(sound[8 : 8 + length])["__metadata__"]
    key = data.draw(st.sampled_from(sorted(metadata)))
    try:
        changed = data.draw(changed_json(json.loads(metadata[key])))
    except json.JSONDecodeError:
        changed = data.draw(st.text(max_size=20))
    read_with(folder, name, with_header(sound, {key: changed}))


@fuzz(80, data=st.data(), name=st.sampled_from(("hub/config.json", "hub/preprocessor_config.json")))
def test_a_changed_description_of_a_transformers_model_is_refused(folder: Path, data: Any, name: str) -> None:
    read_with(folder, name, data.draw(changed_json(json.loads((folder / name).read_text()))).encode())


@fuzz(60, data=st.data(), kind=st.sampled_from(("upernet", "dpt")))
def test_a_changed_description_of_a_network_of_transformers_is_refused(
    folder: Path, data: Any, kind: str
) -> None:
    document = {
        "model_type": kind,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "backbone_config": {"model_type": "resnet"},
        "num_labels": 2,
    }
    read_with(folder, "hub/config.json", data.draw(changed_json(document)).encode())


@fuzz(60, grouping=value)
def test_any_class_map_is_taken_or_refused(folder: Path, grouping: Any) -> None:
    from orchestrator.planning.config import TeacherConfig

    def read() -> None:
        path = str(folder / "model.safetensors")
        try:
            choice = TeacherConfig.model_validate({"model": "m", "checkpoint": path, "class_map": grouping})
        except ValidationError as error:  # what reads sweep files makes a message of it
            raise UsageError(f"class_map: {error.error_count()} faults; correct them") from error
        read_teacher("m", choice.checkpoint, classes=CLASSES, class_map=choice.class_map, sizes=SIZES)

    answers("class maps", read)


@fuzz(40, data=st.binary(max_size=200), kind=st.sampled_from(("torchscript", "export")))
def test_bytes_that_are_no_program_are_refused(folder: Path, data: bytes, kind: str) -> None:
    path = folder / "program.bin"
    path.write_bytes(data)
    taps = {"stages": [0, 1, 2, 3], "logits": 0}
    assert not answers("programs", lambda: read_as(kind, family="cnn", classes=2, taps=taps)(path))
    path.unlink()


@fuzz(60, data=st.data(), kind=st.sampled_from(("torchscript", "export")))
def test_a_damaged_program_is_read_or_refused(folder: Path, data: Any, kind: str) -> None:
    path = folder / "program.bin"
    path.write_bytes(data.draw(damaged(PROGRAMS[kind])))
    taps = {"stages": [0, 0, 0, 0], "logits": 0}
    answers("programs", lambda: read_as(kind, family="cnn", classes=2, taps=taps)(path))
    path.unlink()


def _programs() -> dict[str, bytes]:
    network = torch.nn.Conv2d(3, 2, 1).eval()
    script, exported = io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.script(network), script)
    torch.export.save(torch.export.export(network, (torch.zeros(2, 3, 32, 32),)), exported)
    return {"torchscript": script.getvalue(), "export": exported.getvalue()}


PROGRAMS = _programs()
