"""Every head over the tiniest member of every family: what a model must do, whatever it is made of."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from distill.errors import UsageError
from distill.methods.taps import Tap, tap_channels, tap_features
from distill.models import (
    CheckpointMetadata,
    ModelOptions,
    SegmentationModel,
    build_model,
    list_heads,
    load_model,
    save_model,
)
from distill.models.costs import count_cost
from tests.distill.models.backbone_families import ANY_SIZE, FAMILIES, MULTIPLES, K, build, images

TAPS: tuple[Tap, ...] = ("stage1", "stage2", "stage3", "stage4", "stride8", "fused")


@pytest.fixture(
    scope="module", params=[f"{head}-{backbone}" for backbone in FAMILIES for head in list_heads()]
)
def model(request: pytest.FixtureRequest) -> SegmentationModel:
    return build(request.param).eval()


def test_outputs_and_taps_have_the_shapes_that_info_promises(model: SegmentationModel) -> None:
    info = model.info
    with torch.no_grad():
        output = model(images())
    for stage, channels, stride in zip(output.stages, info.channels, info.strides, strict=True):
        assert stage.shape == (2, channels, *[-(-64 // stride)] * 2)
    assert output.fused.shape == (2, info.fused_channels, *[-(-64 // info.fused_stride)] * 2)
    assert output.logits.shape == (2, K, *[-(-64 // info.logits_stride)] * 2)
    assert {tap: tap_features(output, info, tap).shape[1] for tap in TAPS} == {
        tap: tap_channels(info, tap) for tap in TAPS
    }


def test_sizes_that_do_not_divide_pass_where_the_backbone_takes_them(model: SegmentationModel) -> None:
    backbone = model.info.name.partition("-")[2]
    size = (65, 97) if backbone in ANY_SIZE else (64, 96) if backbone in MULTIPLES else (64, 64)
    with torch.no_grad():
        output = model(images(*size, count=1))
    tapped = output.stages[model.info.strides.index(model.info.logits_stride)]
    assert output.logits.shape[-2:] == output.fused.shape[-2:] == tapped.shape[-2:]
    assert torch.isfinite(output.logits).all()


def test_what_is_saved_is_what_is_loaded(model: SegmentationModel, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, model, CheckpointMetadata(tuple("abcde")))
    loaded = load_model(path)[0].eval()
    with torch.no_grad():
        assert torch.equal(loaded(images(count=1)).logits, model(images(count=1)).logits)
    assert loaded.info == model.info


@pytest.mark.parametrize("backbone", MULTIPLES)
def test_a_backbone_that_wants_multiples_says_so(backbone: str) -> None:
    model = build(f"fcn-{backbone}").eval()
    with pytest.raises(UsageError, match=r"does not take images of 65×97.*sides are multiples of 32"):
        model(images(65, 97, count=1))


@pytest.mark.parametrize("head", list_heads())
def test_every_parameter_learns(head: str) -> None:
    model = build(f"{head}-test_convnext", dropout=0.0).train()
    model(images()).logits.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.slow
@pytest.mark.parametrize("head", [pytest.param("deeplabv3plus", marks=pytest.mark.long), "segformer"])
def test_compiled_models_give_the_same_outputs(head: str) -> None:
    model = build(f"{head}-test_resnet").eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        expected, found = model(images()), compiled(images())
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.fused, expected.fused)


class _Logits(torch.nn.Module):
    """ONNX graphs return tensors, not our dataclass."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(images).logits
        return logits


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra `onnx` is not installed",
)
@pytest.mark.parametrize("head", [pytest.param("deeplabv3", marks=pytest.mark.long), "upernet"])
def test_an_onnx_export_gives_the_same_logits(head: str, tmp_path: Path) -> None:
    import onnxruntime

    model = _Logits(build(f"{head}-test_resnet")).eval()
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (images(),), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images().numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(images()).detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "backbone", ["levit_128s", "pit_ti_224", "nest_tiny", "visformer_tiny", "efficientvit_m0"]
)
def test_a_family_that_cannot_serve_is_refused_by_name_with_the_reason(backbone: str) -> None:
    with pytest.raises(
        UsageError, match=rf"backbone '{backbone}' has \d feature maps .*must have at least 4"
    ):
        build_model(f"segformer-{backbone}", K)


@pytest.mark.parametrize("head", list_heads())
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "mit_b0"])
def test_operations_are_counted_without_memory(head: str, backbone: str) -> None:
    options = ModelOptions(f"{head}-{backbone}", K, head_channels=8, backbone_args=FAMILIES[backbone])
    cost = count_cost(options, 64, 96)
    assert cost.params == sum(p.numel() for p in build(options.name).parameters())
    assert cost.flops_forward > count_cost(options, 64, 64).flops_forward
