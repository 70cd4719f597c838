"""Heads over backbones of every kind: shapes, gradients, options, and errors a person can act on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distill.errors import UsageError
from distill.models import SegmentationModel, build_model
from distill.models.backbones import VARIANTS, plan_backbone
from tests.distill.models.backbone_families import K, build, images


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(name: str, classes: int = 19) -> SegmentationModel:
    with torch.device("meta"):
        return build_model(name, classes)


def test_backbone_and_head_parameters_are_all_parameters_once() -> None:
    model = build("deeplabv3-test_resnet")
    parts = [*model.backbone.parameters(), *model.head_parameters()]
    assert {id(part) for part in parts} == {id(parameter) for parameter in model.parameters()}
    assert len(parts) == len(list(model.parameters()))


def test_equal_seeds_build_equal_models() -> None:
    first, second = build("segformer-test_vit"), build("segformer-test_vit")
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("size", "count"),
    [
        pytest.param(size, count, marks=[pytest.mark.slow] if size in (3, 4) else [])
        for size, count in enumerate([3_319_392, 13_151_424, 24_196_288, 44_072_128, 60_842_688, 81_443_008])
    ],
)
def test_mix_transformer_encoders_have_the_published_parameter_counts(size: int, count: int) -> None:
    assert parameters(on_meta(f"segformer-mit_b{size}").backbone) == count


@pytest.mark.parametrize(
    ("name", "published_millions"),
    [("deeplabv3-mobilenetv2_100", 3.2), ("segformer-mit_b0", 3.7), ("segformer-mit_b4", 64.1)],
)
def test_sizes_are_the_published_ones_within_a_twentieth_of_a_million_or_one_percent(
    name: str, published_millions: float
) -> None:
    found = parameters(on_meta(name)) / 1e6
    assert abs(found - published_millions) < max(0.05, 0.01 * published_millions)


def auxiliary_head(inputs: int, width: int, classes: int) -> int:
    """Parameters of the classifier that code bases put on the third stage in training."""
    return 9 * inputs * width + 2 * width + (width + 1) * classes


@pytest.mark.parametrize(
    ("name", "classes", "published_millions", "auxiliary"),
    [
        ("deeplabv3-resnet101", 19, 61.1, (1024, 256)),
        ("deeplabv3-resnet18", 19, 13.6, (256, 128)),
        ("pspnet-resnet18", 19, 12.9, (256, 128)),
        ("pspnet-resnet101", 150, 68.1, (1024, 256)),  # table 2 of SegFormer's paper
        ("upernet-swin_tiny_patch4_window7_224", 150, 60.0, (384, 256)),  # table 3 of Swin's paper
        ("upernet-convnext_tiny", 150, 60.0, (384, 256)),  # table 5 of ConvNeXt's paper
    ],
)
def test_sizes_published_with_the_auxiliary_head_of_training_are_met_within_a_percent(
    name: str, classes: int, published_millions: float, auxiliary: tuple[int, int]
) -> None:
    found = (parameters(on_meta(name, classes)) + auxiliary_head(*auxiliary, classes)) / 1e6
    assert found == pytest.approx(published_millions, rel=0.01)


def test_deeplabv3plus_on_xception_has_the_count_of_the_keras_implementation_to_the_parameter() -> None:
    """41 258 213 with running statistics (bonlime/keras-deeplab-v3-plus), of which 202 800 are these."""
    assert parameters(on_meta("deeplabv3plus-xception65", 21)) == 41_258_213 - 202_800


@pytest.mark.parametrize("head", ["deeplabv3", "fcn"])
@pytest.mark.parametrize("depth", [50, 101])
def test_sizes_are_those_of_torchvision_to_the_parameter(head: str, depth: int) -> None:
    import torchvision

    with torch.device("meta"):
        theirs = getattr(torchvision.models.segmentation, f"{head}_resnet{depth}")(
            weights=None, weights_backbone=None, num_classes=21, aux_loss=False
        )
    assert parameters(on_meta(f"{head}-resnet{depth}", 21)) == parameters(theirs)


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("deeplabv3-resnet18", (4, 8, 8, 8)),
        ("segformer-resnet18", (4, 8, 16, 32)),
        ("deeplabv3-mit_b0", (4, 8, 16, 32)),
        ("deeplabv3-test_vit", (16, 16, 16, 16)),
    ],
)
def test_deeplab_dilates_backbones_that_can_be_and_leaves_others(
    name: str, strides: tuple[int, int, int, int]
) -> None:
    assert on_meta(name).info.strides == strides


def test_output_stride_asked_for_is_what_comes_out() -> None:
    assert build("segformer-test_resnet", output_stride=16).info.strides == (4, 8, 16, 16)
    assert build("deeplabv3-test_resnet", output_stride=32).info.strides == (4, 8, 16, 32)


def test_a_plain_transformer_is_tapped_at_four_evenly_spaced_blocks() -> None:
    assert plan_backbone("test_vit", None, None).out_indices == (0, 2, 3, 5)
    assert plan_backbone("vit_tiny_patch16_224", None, None).out_indices == (2, 5, 8, 11)


@pytest.mark.parametrize(
    ("backbone", "family"),
    [
        ("test_resnet", "cnn"),
        ("convnext_tiny", "cnn"),
        ("convformer_s18", "cnn"),
        ("caformer_s18", "transformer"),
        ("test_vit", "transformer"),
        ("mit_b0", "transformer"),
    ],
)
def test_family_says_how_tokens_are_mixed(backbone: str, family: str) -> None:
    assert plan_backbone(backbone, None, None).family == family


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_byobnet"])
def test_group_norm_leaves_no_batch_norm_and_trains_with_one_image(backbone: str) -> None:
    model = build(f"deeplabv3-{backbone}", norm="group")
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    loss = model.train()(images(count=1)).logits.square().mean()
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.head.pyramid.image.parameters())  # type: ignore[union-attr]


def test_group_norm_keeps_the_activations_fused_into_norms() -> None:
    def activations(norm: str) -> list[str]:
        modules = build("deeplabv3-test_efficientnet", norm=norm).backbone.modules()
        return sorted(type(m).__name__ for m in modules if type(m).__module__.endswith("activation"))

    assert activations("batch")
    assert activations("group") == activations("batch")


def test_sync_norm_replaces_every_batch_norm() -> None:
    model = build("deeplabv3-test_resnet", norm="sync")
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(module, nn.SyncBatchNorm) for module in norms)


def test_dropout_acts_on_the_logits_in_training_only_and_never_on_the_fused_map() -> None:
    model = build("segformer-test_vit", dropout=0.5)
    first, second = model.train()(images()), model(images())
    assert not torch.equal(first.logits, second.logits)
    assert torch.equal(first.fused, second.fused)
    model.eval()
    assert torch.equal(model(images()).logits, model(images()).logits)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {}, "must be written head-backbone"),
        ("deeplab-resnet18", {}, "head 'deeplab' is not known; did you mean 'deeplabv3'"),
        ("segformer-resnet19", {}, "backbone 'resnet19' is not known; did you mean 'resnet18'"),
        ("segformer-mit_b6", {}, "did you mean 'mit_b"),
        ("segformer-resnet18.nobody", {}, "resnet18.a1_in1k"),
        ("segformer-levit_128", {}, "3 feature maps (strides 16, 32, 64), must have at least 4"),
        ("segformer-test_vit", {"output_stride": 8}, "cannot be built with output stride 8"),
        ("segformer-test_resnet", {"output_stride": 4}, "output_stride is 4, must be 8, 16 or 32"),
        ("segformer-test_resnet", {"dropout": 1.0}, "dropout is 1.0, must be in [0, 1)"),
        ("segformer-test_resnet", {"norm": "bacth"}, "norm 'bacth' is not known; did you mean 'batch'"),
        ("segformer-test_resnet", {"head_channels": 0}, "head_channels is 0, must be at least 1"),
        ("segformer-test_resnet", {"backbone_args": {"frob": 1}}, 'backbone_args {"frob": 1}'),
        ("segformer-test_resnet", {"backbone_args": {"pretrained": True}}, "which build_model sets itself"),
        ("segformer-test_resnet", {"backbone_args": {"act_layer": nn.ReLU}}, "JSON values only"),
    ],
)
def test_what_cannot_be_built_says_why_and_what_to_do(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as error:
        build_model(name, K, **options)  # type: ignore[arg-type]
    assert message in str(error.value)


def test_one_class_is_refused() -> None:
    with pytest.raises(UsageError, match="num_classes is 1, must be at least 2"):
        build_model("segformer-test_vit", 1)


def test_a_backbone_of_fixed_size_says_how_to_give_it_another() -> None:
    model = build("segformer-test_vit_relpos").eval()
    with pytest.raises(UsageError, match=r'does not take images of 96×96.*"img_size": \[96, 96\]'):
        model(images(96, 96))


def test_backbone_args_shrink_a_backbone() -> None:
    small = {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
    model = build("segformer-mit_b0", backbone_args=small)
    assert model.info.channels == (8, 16, 24, 32)
    assert parameters(model.backbone) < 100_000


def test_every_variant_is_a_timm_architecture_under_another_name() -> None:
    for name in VARIANTS:
        assert plan_backbone(name, None, None).name == name
