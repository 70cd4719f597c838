"""The output of a segmentation model, and the shapes of its maps, from which methods are built."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from pydantic import ConfigDict
from torch import Tensor

MapName = Literal["logits", "fused", "stage1", "stage2", "stage3", "stage4"]
MAP_NAMES: tuple[MapName, ...] = get_args(MapName)
"""The maps of an output."""

OutputMaps = dict[MapName, Tensor]
"""Some maps of an output by name.

The teacher's output has this form from its forward pass to the students' batch: it can be cached and broadcast map
by map, and holds only what the methods read."""


@dataclass(frozen=True)
class Output:
    """One forward pass.

    Attributes:
        stages: four backbone maps, `B×C_i×H/s_i×W/s_i`, strides as in `ModelInfo.strides`.
        fused: input of the classifier, `B×C×h×w`.
        logits: class scores at the head's own stride, `B×K×h×w`; upsampling belongs to loss and metric.
    """

    stages: tuple[Tensor, Tensor, Tensor, Tensor]
    fused: Tensor
    logits: Tensor

    def maps(self, needs: Set[MapName]) -> OutputMaps:
        """The maps with these names."""
        every = dict(zip(MAP_NAMES, (self.logits, self.fused, *self.stages), strict=True))
        return {name: maps for name, maps in every.items() if name in needs}

    @classmethod
    def from_maps(cls, maps: Mapping[MapName, Tensor]) -> Output:
        """The output with these maps, of which there is at least one; every missing map is an empty tensor."""
        nothing = next(iter(maps.values())).new_empty(0)
        logits, fused, *stages = (maps.get(name, nothing) for name in MAP_NAMES)
        first, second, third, fourth = stages
        return cls((first, second, third, fourth), fused, logits)


@dataclass(frozen=True)
class ModelInfo:
    """Shapes of a model's outputs, from which a distillation method is built."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    family: Literal["cnn", "transformer"]
    num_classes: int
    channels: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]
    fused_channels: int
    fused_stride: int
    logits_stride: int
