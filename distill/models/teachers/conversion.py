"""Converts weights of other libraries to our models: SegFormer of transformers, DeepLabV3 and FCN of torchvision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from distill.errors import UsageError
from distill.models.checkpoint import filled
from distill.models.mit import mit_encoder, rename
from distill.models.model import ModelOptions, SegmentationModel, build_model
from distill.models.weight_layouts import VAINF, resemblance

_MIX_TRANSFORMERS = {
    ((32, 64, 160, 256), (2, 2, 2, 2)): "mit_b0",
    ((64, 128, 320, 512), (2, 2, 2, 2)): "mit_b1",
    ((64, 128, 320, 512), (3, 4, 6, 3)): "mit_b2",
    ((64, 128, 320, 512), (3, 4, 18, 3)): "mit_b3",
    ((64, 128, 320, 512), (3, 8, 27, 3)): "mit_b4",
    ((64, 128, 320, 512), (3, 6, 40, 3)): "mit_b5",
}
_HEADS = (1, 2, 5, 8)
_FIXED_SEGFORMER = {
    "num_encoder_blocks": 4,
    "patch_sizes": [7, 3, 3, 3],
    "strides": [4, 2, 2, 2],
    "sr_ratios": [8, 4, 2, 1],
    "hidden_act": "gelu",
    "reshape_last_stage": True,
}
_SEGFORMER_HEAD_NAMES = (
    (r"^decode_head\.linear_c\.(\d)\.proj\.", r"head.project.\1."),
    (r"^decode_head\.linear_fuse\.", r"head.fuse.0."),
    (r"^decode_head\.batch_norm\.", r"head.fuse.1."),
    (r"^decode_head\.classifier\.", r"head.classifier."),
)
_TORCHVISION_NAMES = (
    (r"^backbone\.", r"backbone.network."),
    (r"^classifier\.0\.convs\.4\.1\.", r"head.pyramid.image.0."),
    (r"^classifier\.0\.convs\.4\.2\.", r"head.pyramid.image.1."),
    (r"^classifier\.0\.convs\.(\d)\.", r"head.pyramid.local.\1."),
    (r"^classifier\.0\.project\.", r"head.pyramid.join."),
    (r"^classifier\.4\.", r"head.classifier."),
)
_TORCHVISION_REFINE = {"deeplabv3": ("1", "2"), "fcn": ("0", "1")}
TORCHVISION_MODELS = tuple(f"{head}-resnet{depth}" for head in _TORCHVISION_REFINE for depth in (50, 101))


def segformer_from_transformers(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> SegmentationModel:
    """Convert a SegFormer of transformers to our `segformer-mit_bN`.

    Args:
        config: the model's `config.json`.
        state: its tensors, with transformers' names.

    Raises:
        UsageError: the config is not one of the published SegFormers' form, or tensors are missing.
    """
    for key, required in _FIXED_SEGFORMER.items():
        if config.get(key, required) != required:
            raise UsageError(f"SegFormer with {key} {config[key]}: must be {required} to be converted")
    widths, depths = tuple(config["hidden_sizes"]), tuple(config["depths"])
    heads, ratios = tuple(config["num_attention_heads"]), tuple(config["mlp_ratios"])
    name = _MIX_TRANSFORMERS.get((widths, depths), "") if (heads, ratios) == (_HEADS, (4,) * 4) else ""
    variant = {"embed_dims": widths, "depths": depths, "num_heads": heads, "mlp_ratios": ratios}
    options = ModelOptions(
        name=f"segformer-{name or 'mit_b0'}",
        num_classes=int(state["decode_head.classifier.weight"].shape[0]),
        head_channels=int(config["decoder_hidden_size"]),
        backbone_args={} if name else {key: list(value) for key, value in variant.items()},
    )
    renamed = {
        f"backbone.network.{re.sub(r'^stages.', 'stages_', key)}": tensor
        for key, tensor in mit_encoder(state).items()
    }
    renamed |= {
        rename(key, _SEGFORMER_HEAD_NAMES): tensor
        for key, tensor in state.items()
        if key.startswith("decode_head.")
    }
    for stage in range(4):  # a linear layer is a 1×1 convolution
        weight = renamed[f"head.project.{stage}.weight"]
        renamed[f"head.project.{stage}.weight"] = weight[:, :, None, None]
    # transformers concatenates the stages from coarse to fine, our head from fine to coarse.
    joined = renamed["head.fuse.0.weight"]
    renamed["head.fuse.0.weight"] = torch.cat(joined.chunk(4, dim=1)[::-1], dim=1)
    return _filled(options, renamed)


def model_from_torchvision(
    name: str, state: Mapping[str, Tensor], output_stride: Literal[8, 16] | None = None
) -> SegmentationModel:
    """Convert a state dict of torchvision or VainF to our `deeplabv3-resnetN` or `fcn-resnetN`.

    The auxiliary head is dropped. VainF's DeepLabV3 is torchvision's, at stride 8 or 16: the tensors are the same.

    Raises:
        UsageError: the model is not supported, its tensors do not fit, or the output stride is missing or wrong.
    """
    if name not in TORCHVISION_MODELS:
        raise UsageError(
            f"torchvision's '{name}' cannot be converted; those that can: {', '.join(TORCHVISION_MODELS)}. Its "
            "MobileNetV3 is not timm's: export such a model and use kind `export`"
        )
    convolution, norm = _TORCHVISION_REFINE[name.partition("-")[0]]
    refine = (
        (rf"^classifier\.{convolution}\.(weight|bias)", r"head.refine.0.\1"),
        (rf"^classifier\.{norm}\.(weight|bias|running_mean|running_var|num_batches)", r"head.refine.1.\1"),
    )
    is_vainf = name.startswith("deeplabv3") and f"{VAINF}4.weight" in state
    _check_stride(output_stride, is_vainf)
    if is_vainf:
        state = {key.replace(VAINF, "classifier."): tensor for key, tensor in state.items()}
    if "classifier.4.weight" not in state:
        raise UsageError(
            f"the file lacks 'classifier.4.weight': it is no state dict of torchvision's {name}, its first tensors are "
            f"{', '.join(list(state)[:3])}{resemblance(state)}"
        )
    options = ModelOptions(
        name=name,
        num_classes=int(state["classifier.4.weight"].shape[0]),
        output_stride=output_stride or 8,
        head_channels=256 if name.startswith("deeplabv3") else None,
    )
    used = {key: tensor for key, tensor in state.items() if not key.startswith("aux_classifier.")}
    return _filled(
        options, {rename(key, (*_TORCHVISION_NAMES, *refine)): tensor for key, tensor in used.items()}
    )


def _check_stride(output_stride: int | None, is_vainf: bool) -> None:
    if is_vainf and output_stride is None:
        raise UsageError(
            "the file looks like VainF's DeepLabV3, which is trained at output stride 8 or 16 (its default) with the same "
            "tensors: give `output_stride` in the checkpoint, as the model was trained"
        )
    if not is_vainf and output_stride not in (None, 8):
        raise UsageError(f"output_stride is {output_stride}, must be 8: torchvision's models have no other")


def _filled(options: ModelOptions, state: Mapping[str, Tensor]) -> SegmentationModel:
    return filled(lambda: build_model(**options.arguments()), state, f"weights of a {options.name}")
