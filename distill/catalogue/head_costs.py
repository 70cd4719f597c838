"""Parameters and multiply-accumulates of the heads, by formula and without torch.

There is one function per head of `distill.models.heads`; a test compares them with the built heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

_LOW_LEVEL = 48  # channels of DeepLabV3+'s first stage in the decoder
_GRID_CELLS = (1, 4, 9, 36)


@dataclass(frozen=True)
class HeadCost:
    """Parameters, and multiply-accumulates of one image. The cost of a head is the sum over its layers."""

    params: int = 0
    macs: int = 0

    def __add__(self, other: Self) -> HeadCost:
        return HeadCost(self.params + other.params, self.macs + other.macs)


@dataclass(frozen=True)
class HeadShapes:
    """Shapes that a head's cost depends on.

    Attributes:
        channels: channels of the four stages.
        cells: pixels of each of the four stages' maps.
        width: the head's width.
        classes: number of classes K.
    """

    channels: tuple[int, ...]
    cells: tuple[int, ...]
    width: int
    classes: int


def head_cost(head: str, shapes: HeadShapes) -> HeadCost:
    """The cost of a registered head."""
    return _HEADS[head](shapes)


def heads_with_cost() -> list[str]:
    """Names of the heads that have a formula, sorted."""
    return sorted(_HEADS)


def _conv(cells: int, inputs: int, outputs: int, kernel: int = 1) -> HeadCost:
    """A convolution without bias, and BatchNorm."""
    weights = inputs * outputs * kernel * kernel
    return HeadCost(weights + 2 * outputs, cells * weights)


def _separable(cells: int, inputs: int, outputs: int) -> HeadCost:
    return HeadCost(11 * inputs, 9 * inputs * cells) + _conv(cells, inputs, outputs)


def _classifier(cells: int, shapes: HeadShapes) -> HeadCost:
    weights = shapes.width * shapes.classes
    return HeadCost(weights + shapes.classes, cells * weights)


def _atrous_pyramid(shapes: HeadShapes, *, separable: bool) -> HeadCost:
    cells, inputs, width = shapes.cells[-1], shapes.channels[-1], shapes.width
    dilated = _separable(cells, inputs, width) if separable else _conv(cells, inputs, width, 3)
    views = _conv(cells, inputs, width) + dilated + dilated + dilated + _conv(1, inputs, width)
    return views + _conv(cells, 5 * width, width)


def _pooling_pyramid(shapes: HeadShapes, width: int) -> HeadCost:
    return sum((_conv(cells, shapes.channels[-1], width) for cells in _GRID_CELLS), HeadCost())


def _deeplabv3(shapes: HeadShapes) -> HeadCost:
    cells = shapes.cells[-1]
    refine = _conv(cells, shapes.width, shapes.width, 3)
    return _atrous_pyramid(shapes, separable=False) + refine + _classifier(cells, shapes)


def _deeplabv3plus(shapes: HeadShapes) -> HeadCost:
    cells, width = shapes.cells[0], shapes.width
    low_level = _conv(cells, shapes.channels[0], _LOW_LEVEL)
    refine = _separable(cells, width + _LOW_LEVEL, width) + _separable(cells, width, width)
    return _atrous_pyramid(shapes, separable=True) + low_level + refine + _classifier(cells, shapes)


def _fcn(shapes: HeadShapes) -> HeadCost:
    cells = shapes.cells[-1]
    return _conv(cells, shapes.channels[-1], shapes.width, 3) + _classifier(cells, shapes)


def _pspnet(shapes: HeadShapes) -> HeadCost:
    cells, inputs = shapes.cells[-1], shapes.channels[-1]
    quarter = max(1, inputs // 4)
    join = _conv(cells, inputs + 4 * quarter, shapes.width, 3)
    return _pooling_pyramid(shapes, quarter) + join + _classifier(cells, shapes)


def _segformer(shapes: HeadShapes) -> HeadCost:
    width = shapes.width
    projections = (
        HeadCost((channels + 1) * width, cells * channels * width)
        for channels, cells in zip(shapes.channels, shapes.cells, strict=True)
    )
    fuse = HeadCost(
        4 * width * width + 2 * width, sum(shapes.cells) * width * width
    )  # each stage at its own stride
    return sum(projections, HeadCost()) + fuse + _classifier(shapes.cells[0], shapes)


def _upernet(shapes: HeadShapes) -> HeadCost:
    width, fine = shapes.width, shapes.cells[0]
    top = _conv(shapes.cells[-1], shapes.channels[-1] + 4 * width, width, 3)
    levels = (
        _conv(cells, channels, width) + _conv(cells, width, width, 3)
        for channels, cells in zip(shapes.channels[:-1], shapes.cells[:-1], strict=True)
    )
    fuse = _conv(fine, 4 * width, width, 3)
    return _pooling_pyramid(shapes, width) + top + sum(levels, HeadCost()) + fuse + _classifier(fine, shapes)


_HEADS: Mapping[str, Callable[[HeadShapes], HeadCost]] = {
    "deeplabv3": _deeplabv3,
    "deeplabv3plus": _deeplabv3plus,
    "fcn": _fcn,
    "pspnet": _pspnet,
    "segformer": _segformer,
    "upernet": _upernet,
}
