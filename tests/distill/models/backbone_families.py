"""The tiniest member of each family of backbones, shrunk where timm lets it be."""

from __future__ import annotations

from typing import Any

import torch

from distill.models import SegmentationModel, build_model

K = 5
_FOUR_STAGES = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
_PYRAMID = {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
_PLAIN = {"embed_dim": 24, "depth": 4, "num_heads": 2}
_WINDOWS = {"embed_dim": 24, "depths": [1, 1, 1, 1]}

ANY_SIZE: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "regnetx_002": {},
    "mobilenetv2_035": {},
    "mobilenetv3_small_050": {},
    "mobilenetv4_conv_small_035": {},
    "ghostnet_050": {},
    "test_efficientnet": {},
    "test_byobnet": {},
    "test_nfnet": {},
    "mobilevitv2_050": {},
    "test_convnext": {},
    "convnextv2_atto": _FOUR_STAGES,
    "edgenext_xx_small": {},
    "test_mambaout": {},
    "efficientvit_b0": {},
    "mit_b0": _PYRAMID,
    "pvt_v2_b0": _PYRAMID,
    "test_vit": {},
    "deit_tiny_patch16_224": _PLAIN,
    "eva02_tiny_patch14_224": _PLAIN,
}
"""Backbones that take every size of image, odd ones too."""

MULTIPLES: dict[str, dict[str, Any]] = {
    "swin_tiny_patch4_window7_224": _WINDOWS,
    "swinv2_tiny_window8_256": _WINDOWS,
    "hrnet_w18_small": {},
}
"""Backbones whose images' sides must be multiples of a number."""

FIXED: dict[str, dict[str, Any]] = {"test_vit_relpos": {"img_size": 64}}
"""Backbones built for one size."""

FAMILIES = {**ANY_SIZE, **MULTIPLES, **FIXED}


def build(name: str, **options: Any) -> SegmentationModel:
    """A small model of `head-backbone`, always with the same weights."""
    torch.manual_seed(0)
    backbone = name.partition("-")[2]
    options = {"head_channels": 8, "backbone_args": FAMILIES.get(backbone), **options}
    return build_model(name, K, **options)


def images(height: int = 64, width: int = 64, count: int = 2) -> torch.Tensor:
    """The same random images every time."""
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))
