"""Weights of teachers are read from the layouts that training programs write, or refused with what they look like."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from distill.errors import UsageError
from distill.models import load_model, save_model
from tests.distill.models.foreign_models import segformer, upernet
from tests.distill.models.test_teachers import CLASSES, images, read, run_file, transformers_source


def vainf(folder: Path, stride: int) -> tuple[nn.Module, Path]:
    """A DeepLabV3 with the tensors, names and output stride of VainF's, in a checkpoint as its program saves them."""
    from torchvision.models import resnet50
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3

    torch.manual_seed(0)
    dilated = [False, stride == 8, True]
    backbone = IntermediateLayerGetter(
        resnet50(replace_stride_with_dilation=dilated), return_layers={"layer4": "out"}
    )
    rates = [6, 12, 18] if stride == 16 else [12, 24, 36]
    model = DeepLabV3(backbone, DeepLabHead(2048, 4, rates)).eval()
    state = {
        f"module.{name.replace('classifier.', 'classifier.classifier.')}": tensor
        for name, tensor in model.state_dict().items()
    }
    document = {
        "cur_itrs": 3,
        "model_state": state,
        "optimizer_state": {"state": {}},
        "best_score": np.float64(0.7),
    }
    torch.save(document, folder / "best.pth")
    return model, folder / "best.pth"


@pytest.mark.parametrize("stride", [8, 16])
def test_a_checkpoint_of_vainf_is_read_at_the_stride_that_is_given(stride: int, tmp_path: Path) -> None:
    theirs, path = vainf(tmp_path, stride)
    source = {"kind": "torchvision", "path": str(path)}
    with pytest.raises(UsageError, match=r"looks like VainF's DeepLabV3.*give `output_stride`"):
        read(source, "deeplabv3-resnet50")
    teacher = read({**source, "output_stride": stride}, "deeplabv3-resnet50").model
    with torch.no_grad():
        output, wanted = teacher(images()).logits, theirs(images())["out"]
    torch.testing.assert_close(interpolate(output, (64, 64), mode="bilinear"), wanted, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def fcn_state() -> dict[str, Tensor]:
    import torchvision

    model = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=4)
    return dict(model.state_dict())


@pytest.mark.parametrize(
    ("wrap", "given"),
    [
        (lambda state: {"model": state, "args": argparse.Namespace(epochs=3), "epoch": 3}, {}),
        (lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}, "hyper_parameters": {"lr": 1}}, {}),
        (lambda state: {"model": state, "model_ema": {f"module.{k}": v for k, v in state.items()}}, {"key": "model_ema"}),
        (lambda state: {f"module.{k}": v for k, v in state.items()}, {}),
    ],
    ids=["namespace beside", "Lightning", "averaged", "DataParallel"],
)  # fmt: skip
def test_the_layouts_of_training_programs_are_read_as_teachers(
    wrap: Any, given: dict[str, Any], fcn_state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(wrap(fcn_state), tmp_path / "w.pth")
    source = {"kind": "torchvision", "path": str(tmp_path / "w.pth"), **given}
    ours = read(source, "fcn-resnet50", sizes=[(32, 32)]).model.network.state_dict()
    assert torch.equal(ours["head.classifier.weight"], fcn_state["classifier.4.weight"])
    assert torch.equal(
        ours["backbone.network.layer4.2.conv3.weight"], fcn_state["backbone.layer4.2.conv3.weight"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"model": state, "model_ema": state}, r"several sets of weights \(model, model_ema\): give `key`"),
        (lambda state: {**state, "classifier.4.bias": torch.full((4,), torch.nan)}, "nan or inf in 1 of .*first classifier.4.bias"),
        (lambda state: {"epoch": 3, "lr": 0.1}, "no tensors under epoch, lr"),
        (lambda state: {"decode_head.conv_seg.weight": torch.ones(4, 8, 1, 1)}, "looks like a network of OpenMMLab"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_layout_is_refused_with_what_it_looks_like(
    change: Any, message: str, fcn_state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(change(fcn_state), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=message):
        read({"kind": "torchvision", "path": str(tmp_path / "w.pth")}, "fcn-resnet50")


@pytest.mark.parametrize("make", [segformer, upernet])
def test_a_folder_of_transformers_with_nan_is_refused(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the extra `hub` is not installed")
    from safetensors.torch import load_file, save_file

    make().save_pretrained(tmp_path)  # type: ignore[operator]
    state = load_file(tmp_path / "model.safetensors")
    state["decode_head.classifier.bias"][0] = torch.nan
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="nan or inf in 1 of"):
        read(transformers_source(tmp_path))


def test_a_run_file_with_inf_is_refused(tmp_path: Path) -> None:
    path = run_file(tmp_path, CLASSES)
    model, metadata = load_model(path)
    model.head.classifier.bias.data[0] = torch.inf  # type: ignore[union-attr,operator]
    save_model(path, model, metadata)
    with pytest.raises(UsageError, match="nan or inf in 1 of"):
        read(path)
