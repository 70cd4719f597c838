"""Converts SegFormer's encoder (MiT) from transformers' parameter names to timm's."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_NAMES = (
    (r"^patch_embeddings\.0\.proj", r"patch_embed.proj"),
    (r"^patch_embeddings\.0\.layer_norm", r"patch_embed.norm"),
    (r"^patch_embeddings\.(\d)\.proj", r"stages.\1.downsample.proj"),
    (r"^patch_embeddings\.(\d)\.layer_norm", r"stages.\1.downsample.norm"),
    (r"^layer_norm\.(\d)", r"stages.\1.norm"),
    (r"^block\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.layer_norm_([12])\.", r".norm\1."),
    (r"\.attention\.self\.query\.", r".attn.q."),
    (r"\.attention\.self\.sr\.", r".attn.sr."),
    (r"\.attention\.self\.layer_norm\.", r".attn.norm."),
    (r"\.attention\.output\.dense\.", r".attn.proj."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
    (r"\.mlp\.dwconv\.dwconv\.", r".mlp.dwconv."),
)
MIX_TRANSFORMER = r"^(?:segformer\.)?encoder\.(?=patch_embeddings|layer_norm|block\.\d)"
"""Start of the names that transformers gives to this encoder's tensors."""


def rename(key: str, names: tuple[tuple[str, str], ...]) -> str:
    """The key after applying every (pattern, replacement) in order."""
    for pattern, replacement in names:
        key = re.sub(pattern, replacement, key)
    return key


def mit_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors with the names of timm's `pvt_v2`; other tensors of the state are dropped.

    transformers has separate layers for keys and values, timm has one layer for both.
    """
    renamed = {}
    for key, tensor in state.items():
        if re.match(MIX_TRANSFORMER, key):
            renamed[rename(re.sub(MIX_TRANSFORMER, "", key), _NAMES)] = tensor
    for key in [key for key in renamed if ".attention.self.key." in key]:
        value = renamed.pop(key.replace(".key.", ".value."))
        renamed[key.replace(".attention.self.key.", ".attn.kv.")] = torch.cat([renamed.pop(key), value])
    return renamed
