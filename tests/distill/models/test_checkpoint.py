"""Checkpoints describe themselves; weights come from files without unpickling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from distill.errors import UsageError
from distill.models import CheckpointMetadata, SegmentationModel, build_model, load_model, save_model
from distill.models.checkpoint import filled

CLASSES = ("sky", "road", "car")


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    torch.manual_seed(0)
    built = build_model(
        "deeplabv3-test_resnet",
        3,
        head_channels=8,
        output_stride=16,
        backbone_args={"channels": [16, 16, 16, 16]},
    )
    built(torch.randn(4, 3, 64, 64))  # moves the running statistics away from their start
    return built


def test_a_loaded_model_gives_the_same_outputs(model: SegmentationModel, tmp_path: Path) -> None:
    save_model(tmp_path / "student.safetensors", model, CheckpointMetadata(CLASSES))
    loaded, _ = load_model(tmp_path / "student.safetensors")
    images = torch.randn(1, 3, 48, 80)
    assert torch.equal(loaded.eval()(images).logits, model.eval()(images).logits)
    assert (loaded.info, loaded.options) == (model.info, model.options)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_metadata_and_norm_survive(norm: str, tmp_path: Path) -> None:
    built = build_model("segformer-test_efficientnet", 3, head_channels=8, norm=norm)  # type: ignore[arg-type]
    metadata = CheckpointMetadata(
        CLASSES,
        std=(1.0, 1.0, 1.0),
        palette=((1, 2, 3), (4, 5, 6), (7, 8, 9)),
        window={"size": (64, 64), "stride": (32, 48)},
        notes={"tune_miou": 0.5, "seeds": [1, 2]},
    )
    save_model(tmp_path / "m.safetensors", built, metadata)
    loaded, found = load_model(tmp_path / "m.safetensors")
    assert found == metadata
    assert loaded.options.norm == norm


def test_the_header_can_be_read_without_this_project(model: SegmentationModel, tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", model, CheckpointMetadata(CLASSES))
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        header = file.metadata()
    assert json.loads(header["options"])["name"] == "deeplabv3-test_resnet"
    assert json.loads(header["metadata"])["classes"] == list(CLASSES)


def test_a_failed_save_leaves_the_old_checkpoint(model: SegmentationModel, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, model, CheckpointMetadata(CLASSES))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="names 1 classes, must name all 3"):
        save_model(path, model, CheckpointMetadata(("sky",)))
    with pytest.raises(TypeError):
        save_model(path, model, CheckpointMetadata(CLASSES, notes={"object": object()}))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is not a file"), (b"no tensors", "is not a safetensors file")],
)
def test_what_is_no_checkpoint_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load_model(path)


def test_tensors_of_others_are_refused_with_the_remedy(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match="write it with save_model"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_local_file_of_a_whole_classifier_initialises_the_backbone(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    classifier = timm.create_model("test_vit")
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": classifier.state_dict()}, path)
    else:
        save_file(classifier.state_dict(), path)
    model = build_model("segformer-test_vit", 3, pretrained=path)
    assert torch.equal(
        model.backbone.network.model.blocks[2].attn.qkv.weight, classifier.blocks[2].attn.qkv.weight
    )  # type: ignore[union-attr,index]


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"do not fit backbone 'test_resnet'|could not be loaded"):
        build_model("segformer-test_resnet", 3, pretrained=tmp_path / "w.safetensors")


def test_a_missing_weights_file_is_named() -> None:
    with pytest.raises(UsageError, match=r"pretrained weights '/nowhere/w\.pth' is not a file"):
        build_model("segformer-test_resnet", 3, pretrained="/nowhere/w.pth")


class _Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("touched-by-a-pickle"),))


def test_a_pickle_with_code_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"weight": _Payload()}}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="as plain tensors cannot be read"):
        build_model("segformer-test_resnet", 3, pretrained=tmp_path / "w.pth")
    assert not (tmp_path / "touched-by-a-pickle").exists()


def test_a_backbone_that_nobody_has_weights_of_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="timm has no weights for backbone 'resnetblur18'"):
        build_model("segformer-resnetblur18", 3, pretrained=True)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_mix_transformer_starts_from_the_file_its_authors_publish(suffix: str, tmp_path: Path) -> None:
    """A classifier of transformers, as `nvidia/mit-b0` on the hub is one."""
    transformers = pytest.importorskip("transformers", reason="the extra `hub` is not installed")
    torch.manual_seed(5)
    theirs = transformers.SegformerForImageClassification(transformers.SegformerConfig()).eval()
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    if suffix == "bin":
        torch.save(load_file(path), path := tmp_path / "model.bin")
    model = build_model("segformer-mit_b0", 3, pretrained=path).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(images, output_hidden_states=True).hidden_states
        found = model(images).stages
    for ours, stage in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, stage, rtol=1e-4, atol=1e-4)


def test_weights_that_the_hub_does_not_give_are_an_error_for_a_person(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"'mit_b0' could not be loaded from the hub \(nvidia/mit-b0\)"):
        build_model("segformer-mit_b0", 3, pretrained=True)


@pytest.mark.parametrize("what", ["weights", "palette"])
def test_a_damaged_checkpoint_is_noticed(model: SegmentationModel, tmp_path: Path, what: str) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, model, CheckpointMetadata(CLASSES, palette=((1, 2, 3), (4, 5, 6), (7, 8, 9))))
    data = bytearray(path.read_bytes())
    if what == "weights":
        data[-3] ^= 1
    else:
        place = data.index(b"[1, 2, 3]")
        data[place + 1 : place + 2] = b"9"
    path.write_bytes(data)
    with pytest.raises(UsageError, match="is damaged: its content hashes to"):
        load_model(path)


def test_a_checkpoint_from_before_hashes_and_palettes_is_read(
    model: SegmentationModel, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, model, CheckpointMetadata(CLASSES))
    with safe_open(path, framework="pt") as file:
        header = {key: value for key, value in file.metadata().items() if key != "sha256"}
    values = json.loads(header["metadata"])
    header["metadata"] = json.dumps({k: v for k, v in values.items() if k not in ("palette", "window")})
    save_file(load_file(path), path, header)
    _, found = load_model(path)
    assert found == CheckpointMetadata(CLASSES)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))


class WithBuffer(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(3.0), persistent=False)


class WithTensor(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.arange(3.0)


@pytest.mark.parametrize("network", [Plain, WithBuffer, WithTensor])
def test_a_network_has_the_files_tensors_in_its_own_type_and_what_no_file_holds(
    network: type[nn.Module],
) -> None:
    loaded = filled(network, {"weight": torch.ones(2, dtype=torch.float16)}, "here")
    assert loaded.weight.tolist() == [1.0, 1.0]  # type: ignore[operator]
    assert loaded.weight.dtype == torch.float32
    assert loaded.weight.requires_grad
    if network is not Plain:
        assert loaded.table.tolist() == [0.0, 1.0, 2.0]  # type: ignore[operator]
