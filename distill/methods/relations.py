"""Similarities between positions, some rows at a time: memory grows with positions, not their square."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from distill.methods.pixels import keep_valid, lowest

BLOCK_ELEMENTS = 2**24
"""Similarities held at a time, 64 MiB in float32."""

_TINY = 1e-20


def unit_channels(features: Tensor, dim: int = 1) -> Tensor:
    """Features of length 1 over channels; zero features stay zero and get no gradient."""
    squared = features.square().sum(dim, keepdim=True)
    return torch.where(squared > _TINY, features * squared.clamp(min=_TINY).rsqrt(), 0.0)


def max_pool_valid(features_bchw: Tensor, valid_bhw: Tensor, pool: int) -> tuple[Tensor, Tensor]:
    """Max-pool with kernel and stride `pool`, ceil mode, over valid positions; and which results have any.

    Results without a valid position are 0.
    """
    if pool == 1:
        return keep_valid(features_bchw, valid_bhw), valid_bhw
    filled = keep_valid(features_bchw, valid_bhw, lowest(features_bchw))
    any_valid = F.max_pool2d(valid_bhw[:, None].float(), pool, ceil_mode=True)[:, 0] > 0
    return keep_valid(F.max_pool2d(filled, pool, ceil_mode=True), any_valid), any_valid


def sum_over_row_blocks(part: Callable[[slice], Tensor], rows: int, elements_per_row: int) -> Tensor:
    """Σ of `part(block)` over blocks of rows; for the gradient each block is worked out again.

    Args:
        part: the 0-dim sum over a slice of rows.
        rows: how many there are.
        elements_per_row: similarities in one row, which sets how many rows make a block.
    """
    size = max(1, BLOCK_ELEMENTS // max(1, elements_per_row))
    blocks = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
    if len(blocks) == 1:
        return part(blocks[0])
    sums = [checkpoint(part, block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
    return torch.stack(sums).sum()
