"""Swapping a model's BatchNorm layers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Norm = Literal["batch", "sync", "group"]


def replace_batch_norm(module: nn.Module, norm: Norm) -> nn.Module:
    """`module` with its BatchNorm layers as they are, synchronised over ranks, or replaced by GroupNorm.

    Scale, shift and an activation fused into the layer are kept; a model without BatchNorm
    comes back unchanged.
    """
    from timm.layers.norm_act import convert_sync_batchnorm

    if norm == "sync":
        synchronised: nn.Module = convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return synchronised
    if norm == "group":
        return _to_group_norm(module)
    return module


def _to_group_norm(module: nn.Module) -> nn.Module:
    if isinstance(module, _BatchNorm):
        return _group_norm_like(module)
    for name, child in module.named_children():
        module.add_module(name, _to_group_norm(child))
    return module


def _group_norm_like(layer: _BatchNorm) -> nn.Module:
    """The most groups up to 32 that divide the channels and leave 4 of them in each (Wu and He, ECCV 2018).

    A group of one channel on a map of one pixel, such as the image branch of DeepLabV3, would always be 0.
    """
    most = max(1, min(32, layer.num_features // 4))
    groups = next(count for count in range(most, 0, -1) if layer.num_features % count == 0)
    norm = nn.GroupNorm(groups, layer.num_features, eps=layer.eps, affine=layer.affine)
    if layer.affine:
        with torch.no_grad():
            norm.weight.copy_(layer.weight)
            norm.bias.copy_(layer.bias)
    fused = [part for part in (getattr(layer, "drop", None), getattr(layer, "act", None)) if part is not None]
    return nn.Sequential(norm, *fused) if fused else norm
