"""Similarities between positions, computed in blocks of rows so that memory grows linearly with positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from distill.methods.pixels import keep_valid, lowest

BLOCK_ELEMENTS = 2**24
"""Maximum number of similarities in memory: 64 MiB in float32."""

_TINY = 1e-20


def unit_channels(features: Tensor, dim: int = 1) -> Tensor:
    """Features normalised to length 1 over `dim`; zero features stay zero and get no gradient."""
    squared = features.square().sum(dim, keepdim=True)
    return torch.where(squared > _TINY, features * squared.clamp(min=_TINY).rsqrt(), 0.0)


def max_pool_valid(features_bchw: Tensor, valid_bhw: Tensor, pool: int) -> tuple[Tensor, Tensor]:
    """Max-pooling over valid positions (kernel and stride `pool`, ceil mode), and a mask of cells with a valid position.

    Cells without a valid position are 0.
    """
    if pool == 1:
        return keep_valid(features_bchw, valid_bhw), valid_bhw
    filled = keep_valid(features_bchw, valid_bhw, lowest(features_bchw))
    any_valid = F.max_pool2d(valid_bhw[:, None].float(), pool, ceil_mode=True)[:, 0] > 0
    return keep_valid(F.max_pool2d(filled, pool, ceil_mode=True), any_valid), any_valid


def mean_pool_valid(features_bchw: Tensor, valid_bhw: Tensor, pool: int) -> tuple[Tensor, Tensor]:
    """Mean over the valid positions of each `pool×pool` cell (ceil mode), and a mask of cells with a valid position.

    Cells without a valid position are 0.
    """
    kept = keep_valid(features_bchw, valid_bhw)
    if pool == 1:
        return kept, valid_bhw

    def pooled(maps: Tensor) -> Tensor:
        return F.avg_pool2d(maps, pool, ceil_mode=True)

    share = pooled(valid_bhw[:, None].to(kept.dtype))
    return pooled(kept) / share.clamp(min=_TINY), share[:, 0] > 0


def sum_over_row_blocks(part: Callable[[slice], Tensor], rows: int, elements_per_row: int) -> Tensor:
    """Σ of `part(block)` over blocks of rows; each block is recomputed in the backward pass.

    Args:
        part: returns the 0-dim sum over a slice of rows.
        rows: number of rows.
        elements_per_row: similarities in one row, which decides the number of rows in a block.
    """
    size = max(1, BLOCK_ELEMENTS // max(1, elements_per_row))
    blocks = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
    if len(blocks) == 1:
        return part(blocks[0])
    sums = [checkpoint(part, block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
    return torch.stack(sums).sum()
