"""A backbone with pretrained weights sees pictures as in the training of those weights, wherever it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from distill.models import CheckpointMetadata, SegmentationModel, build_model, load_model, save_model
from distill.normalisation import IMAGENET, Normalisation, normalise
from distill.segmenter import load_segmenter
from distill.teacher_source import RunSource
from tests.distill.models.test_pretrained import TORCHVISION, classifier, write

HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLASSES = ("a", "b", "c")
PICTURES = torch.randint(
    0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights of an architecture that timm normalises with 0.5 and 0.5."""
    return write(tmp_path_factory.mktemp("weights"), classifier("tf_efficientnet_lite0").state_dict())


def from_file(path: Path | bool, name: str = "tf_efficientnet_lite0", **options: Any) -> SegmentationModel:
    torch.manual_seed(0)
    return build_model(f"fcn-{name}", 3, path, head_channels=8, output_stride=32, **options).eval()


def stages_of(model: SegmentationModel) -> list[Tensor]:
    with torch.no_grad():
        return list(model(normalise(PICTURES)).stages)


def test_the_first_convolution_gets_what_timm_would_give_it(lite: Path) -> None:
    model = from_file(lite)
    network = timm.create_model("tf_efficientnet_lite0", features_only=True, pretrained=False).eval()
    network.load_state_dict(model.backbone.network.state_dict(), strict=False)
    config = timm.get_pretrained_cfg("tf_efficientnet_lite0")
    with torch.no_grad():
        wanted = network(normalise(PICTURES, config.mean, config.std))[-4:]
    for found, expected in zip(stages_of(model), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_random_weights_and_imagenets_own_change_nothing(tmp_path: Path) -> None:
    assert from_file(False).options.normalisation is None
    state = classifier("test_efficientnet").state_dict()
    usual = from_file(write(tmp_path, state), "test_efficientnet")
    assert (usual.backbone.normalisation, "normalisation" in usual.options.arguments()) == (IMAGENET, False)


def test_a_saved_model_keeps_its_normalisation_as_student_teacher_and_start_of_another(
    lite: Path, tmp_path: Path
) -> None:
    from distill.models.teachers import read_teacher

    model = from_file(lite)
    assert model.options.normalisation == HALF
    save_model(path := tmp_path / "m.safetensors", model, CheckpointMetadata(CLASSES))
    loaded, _ = load_model(path)
    teacher = read_teacher(
        "t", RunSource(path=str(path)), classes=CLASSES, class_map=None, sizes=[(64, 64)]
    ).model
    with torch.no_grad():
        wanted = model(normalise(PICTURES)).logits
        assert torch.equal(loaded.eval()(normalise(PICTURES)).logits, wanted)
        assert torch.equal(teacher.eval()(normalise(PICTURES)).logits, wanted)
        assert torch.equal(load_segmenter(path).logits_of(PICTURES), wanted)
    again = from_file(path)
    assert again.backbone.normalisation == HALF
    assert all(torch.equal(a, b) for a, b in zip(stages_of(again), stages_of(model), strict=True))


def test_a_model_trained_from_random_weights_keeps_imagenets_normalisation(tmp_path: Path) -> None:
    """Whatever timm's weights of that architecture want, as in files of earlier versions."""
    save_model(path := tmp_path / "m.safetensors", from_file(False), CheckpointMetadata(CLASSES))
    assert load_model(path)[0].backbone.normalisation == IMAGENET
    assert from_file(path).backbone.normalisation == IMAGENET


def test_torchvisions_weights_have_imagenets_normalisation_also_where_timms_have_not(tmp_path: Path) -> None:
    make, name, options = TORCHVISION["torchvision's ViT"]
    torch.manual_seed(0)
    path = write(tmp_path, make().state_dict())
    assert timm.get_pretrained_cfg(name).mean == HALF.mean
    model = build_model(f"fcn-{name}", 3, path, head_channels=8, backbone_args=options)
    assert model.backbone.normalisation == IMAGENET
