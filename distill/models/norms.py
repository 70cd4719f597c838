"""Replaces a model's BatchNorm layers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Norm = Literal["batch", "sync", "group"]


def replace_batch_norm(module: nn.Module, norm: Norm) -> nn.Module:
    """Keep a module's BatchNorm layers ("batch"), synchronise them over ranks ("sync"), or use GroupNorm ("group").

    "sync" makes the host wait for the device in the forward pass of every such layer: torch selects the statistics of
    ranks that have pixels by a mask. Scale, shift and an activation fused into the layer are preserved. A model without BatchNorm is returned unchanged.
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
    """GroupNorm with the largest number of groups up to 32 that gives each at least 4 channels (Wu and He, ECCV 2018).

    A group of one channel over one pixel, as in the image branch of DeepLabV3, would always normalise to 0.
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
