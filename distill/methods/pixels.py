"""Shared steps of the formulas: masks of valid pixels, resizing to one grid, and float32.

Logits and features have their own grids; labels have image resolution. Formulas are computed on the student's grid:
the teacher's maps are resized bilinearly, labels by nearest neighbour. Pixels labelled `IGNORE_INDEX` have no effect,
even if the maps are inf or nan there. Nothing here synchronises with the device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from distill.data.sample import IGNORE_INDEX

P = ParamSpec("P")

LARGEST_MAP = 2**28
"""Elements of a map at image resolution, 1 GiB in float32, above which the task loss is computed in blocks of images."""


def at_least_float32(maps: Tensor) -> Tensor:
    """Maps of half precision in float32; float32 and float64 stay as they are."""
    return maps if maps.dtype == torch.float64 else maps.float()


def _at_least_float32(value: object) -> object:
    return at_least_float32(value) if isinstance(value, Tensor) and value.is_floating_point() else value


def in_float32(formula: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Decorator: compute a formula in at least float32, with autocast off.

    float64 stays float64: gradients are checked in it, and two processors agree on a whole training in it.
    """

    @functools.wraps(formula)
    def run(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        device = next(value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device.type, enabled=False):
            return formula(
                *(_at_least_float32(value) for value in args),  # type: ignore[arg-type]
                **{key: _at_least_float32(value) for key, value in kwargs.items()},  # type: ignore[arg-type]
            )

    return run


def product_type(maps: Tensor) -> torch.dtype | None:
    """Type of matrix products in the recipe's precision: autocast's, None if autocast is off."""
    kind = maps.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def product(left: Tensor, right: Tensor, kind: torch.dtype | None) -> Tensor:
    """`left @ right` with inputs in the type `kind`, or unchanged if it is None; the result has the type of `left`."""
    if kind is None:
        return left @ right
    return (left.to(kind) @ right.to(kind)).to(left.dtype)


def grid(maps: Tensor) -> tuple[int, int]:
    """Height and width of `...×h×w`."""
    return maps.shape[-2], maps.shape[-1]


def resize(maps_bchw: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps resized bilinearly, corners not aligned; unchanged if the size is the same."""
    if grid(maps_bchw) == size:
        return maps_bchw
    return F.interpolate(maps_bchw, size=size, mode="bilinear", align_corners=False)


def resize_labels(labels_bhw: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels or masks resized by nearest neighbour at cell centres, which matches `resize`.

    `interpolate(mode="nearest")` samples a cell's upper left corner, which is half a cell off.
    """
    height, width = grid(labels_bhw)
    if (height, width) == size:
        return labels_bhw
    device = labels_bhw.device
    rows = (2 * torch.arange(size[0], device=device) + 1) * height // (2 * size[0])
    columns = (2 * torch.arange(size[1], device=device) + 1) * width // (2 * size[1])
    return labels_bhw[:, rows[:, None], columns]


def valid_pixels(labels_bhw: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Mask `B×h×w` of the pixels that are not ignored, on the grid `size` or else on the labels' grid."""
    return resize_labels(labels_bhw, size or grid(labels_bhw)) != IGNORE_INDEX


def valid_on(valid_bhw: Tensor | None, maps_bchw: Tensor) -> Tensor:
    """The mask on the grid of `maps_bchw`; all True if there is no mask."""
    if valid_bhw is None:
        return maps_bchw.new_ones((maps_bchw.shape[0], *grid(maps_bchw)), dtype=torch.bool)
    return resize_labels(valid_bhw, grid(maps_bchw))


def keep_valid(maps_bchw: Tensor, valid_bhw: Tensor, fill: float = 0.0) -> Tensor:
    """The maps with `fill` at ignored pixels, so that inf and nan there change no value and no gradient."""
    return torch.where(valid_bhw[:, None], maps_bchw, fill)


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Logits divided by the temperature; unchanged if it is 1."""
    return logits if temperature == 1 else logits / temperature


def lowest(maps: Tensor) -> float:
    """A finite logit whose softmax is exactly 0; a row of only such logits gives a uniform distribution."""
    return torch.finfo(maps.dtype).min / 4


def mean_over_valid(values_bhw: Tensor, valid_bhw: Tensor) -> Tensor:
    """Mean over the valid pixels, a 0-dim tensor; 0 with a zero gradient if no pixel is valid."""
    total = torch.where(valid_bhw, values_bhw, 0.0).sum()
    return total / valid_bhw.sum().clamp(min=1)


def one_hot(labels_bhw: Tensor, num_classes: int) -> Tensor:
    """`B×K×h×w` bool, all False at ignored pixels."""
    classes = torch.arange(num_classes, device=labels_bhw.device)
    return labels_bhw[:, None] == classes[:, None, None]


@in_float32
def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Pixel cross-entropy, the task loss: logits resized bilinearly to the labels, mean over valid pixels.

    Args:
        logits: `B×K×h×w`, any stride.
        labels: `B×H×W` int64, 255 ignored.

    Returns:
        A 0-dim float32 tensor; 0 with a zero gradient if no pixel is valid.
    """
    valid_bhw = valid_pixels(labels)

    def summed(images: slice) -> Tensor:
        logits_bkhw = keep_valid(resize(logits[images], grid(labels)), valid_bhw[images])
        return F.cross_entropy(logits_bkhw, labels[images], ignore_index=IGNORE_INDEX, reduction="sum")

    size = max(1, LARGEST_MAP // (logits.shape[1] * labels[0].numel()))
    blocks = [slice(start, start + size) for start in range(0, len(labels), size)]
    if len(blocks) == 1:
        total = summed(blocks[0])
    else:  # each block is resized again in the backward pass, so that one block is in memory at a time
        sums = [checkpoint(summed, block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
        total = torch.stack(sums).sum()
    return total / valid_bhw.sum().clamp(min=1)
