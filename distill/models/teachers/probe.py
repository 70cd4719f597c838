"""Shapes of a foreign network's outputs, found by running it on blank images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import nn

from distill.errors import UsageError
from distill.models.model import SegmentationModel
from distill.models.output import ModelInfo, Output
from distill.models.teachers.teacher import TeacherDescription

Size = tuple[int, int]

_MAPS = ("stage1", "stage2", "stage3", "stage4", "fused", "logits")
_EVEN = 224  # divides by 32 and by 14, the strides of the last maps of nearly all networks
_COARSEST = 64
_CUT = 32  # pixels of an image's border that a network may leave out, or add, such as half a patch


def probe(
    network: nn.Module, description: TeacherDescription, num_classes: int, sizes: Sequence[Size]
) -> ModelInfo:
    """Shapes of a network's outputs, from forward passes of two blank images of each size.

    Strides are the network's: they do not depend on how its maps of these sizes are rounded.

    Raises:
        UsageError: the network fails on such images, or does not return four stages, fused map and logits.
    """
    shapes = {size: _shapes(_run(network, description, size), description) for size in sizes}
    first, *others = shapes.values()
    channels = [shape[1] for shape in first]
    if any([shape[1] for shape in other] != channels for other in others):
        raise UsageError(
            f"teacher '{description.name}' has other numbers of channels for other sizes of images, must have the same"
        )
    strides = _strides(network, description, shapes)
    return ModelInfo(
        name=description.name,
        family=description.family,
        num_classes=num_classes,
        channels=cast("tuple[int, int, int, int]", tuple(channels[:4])),
        strides=cast("tuple[int, int, int, int]", tuple(strides[:4])),
        fused_channels=channels[4],
        fused_stride=strides[4],
        logits_stride=strides[5],
    )


def representative_sizes(sizes: Iterable[Size]) -> list[Size]:
    """At most eight of the sizes of a data set's pictures: the extremes, and those that divide least evenly.

    The choice depends on which sizes there are, not on their order.
    """
    known = sorted(set(sizes))
    if not known:
        return []
    keys: list[Callable[[Size], tuple[int, ...]]] = [
        lambda size: size,
        lambda size: size[::-1],
        lambda size: (size[0] * size[1], *size),
    ]
    extremes = [choose(known, key=key) for key in keys for choose in (min, max)]
    # the lowest set bit of a side is the largest power of two that divides it
    uneven = [min(known, key=lambda size, axis=axis: (size[axis] & -size[axis], *size)) for axis in (0, 1)]  # type: ignore[misc]
    return list(dict.fromkeys([*extremes, *uneven]))


def _run(network: nn.Module, description: TeacherDescription, size: Size) -> Output:
    height, width = size
    try:
        with torch.no_grad():
            output: Output = network(torch.zeros(2, 3, height, width))
            return output
    except UsageError:
        raise
    except Exception as error:  # a network of another library may raise anything
        first_line = str(error).partition("\n")[0]
        raise UsageError(
            f"teacher '{description.name}' does not take two images of {height}×{width}: "
            f"{type(error).__name__}: {first_line}. Give it a crop and data of a size it takes; a program "
            "must be exported for any number and size of images"
        ) from error


def _shapes(output: Output, description: TeacherDescription) -> list[tuple[int, ...]]:
    maps = [*output.stages, output.fused, output.logits]
    for name, value in zip(_MAPS, maps, strict=True):
        if value.ndim != 4 or len(value) != 2:
            raise UsageError(
                f"teacher '{description.name}': {name} is a tensor of shape {tuple(value.shape)} for two images, "
                "must be 2×C×h×w; name another tap"
            )
    if output.logits.shape[1] != len(description.classes):
        raise UsageError(
            f"teacher '{description.name}' predicts {output.logits.shape[1]} classes and "
            f"{len(description.classes)} are named; name them all, in order"
        )
    return [tuple(value.shape) for value in maps]


def _strides(
    network: nn.Module, description: TeacherDescription, shapes: Mapping[Size, list[tuple[int, ...]]]
) -> list[int]:
    """Strides of the six maps: known, or exact on images that divide evenly, or else those that fit all sizes."""
    if isinstance(network, SegmentationModel):
        return [*network.info.strides, network.info.fused_stride, network.info.logits_stride]
    try:
        even = _shapes(_run(network, description, (_EVEN, _EVEN)), description)
    except UsageError:  # a program that takes other sizes only
        even = None
    strides = []
    for index, name in enumerate(_MAPS):
        seen = {size: cast(Size, maps[index][2:]) for size, maps in shapes.items()}
        exact = [] if even is None or _EVEN % even[index][2] else [_EVEN // even[index][2]]
        halving = [2**power for power in range(_COARSEST.bit_length())]
        fitting = [stride for stride in exact if stride * _misfit(stride, seen) <= _CUT]
        for choices in (halving, range(1, _COARSEST + 1)):
            fitting = fitting or [stride for stride in choices if _misfit(stride, seen) < 1]
        if not fitting:
            size, found = next(iter(seen.items()))
            raise UsageError(
                f"teacher '{description.name}': {name} is {found[0]}×{found[1]} for images of {size[0]}×{size[1]}, "
                f"must be the images' size divided by one whole number up to {_COARSEST}; name another tap"
            )
        strides.append(min(fitting, key=lambda stride: _misfit(stride, seen)))
    return strides


def _misfit(stride: int, seen: Mapping[Size, Size]) -> float:
    """The largest distance of a map's side from the image's side divided by the stride."""
    return max(
        abs(side / stride - found)
        for size, map_size in seen.items()
        for side, found in zip(size, map_size, strict=True)
    )
