"""The output of a segmentation model, and the shapes of its maps, from which methods are built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict
from torch import Tensor

PARTS = ("logits", "fused", "stages")
"""Parts of an output, named as in `Card.needs`."""

OutputMaps = dict[str, list[Tensor]]
"""Some parts of an output by name: four maps for `stages`, one for each other part.

The teacher's output has this form from its forward pass to the students' batch: it can be cached and broadcast part
by part, and holds only what the methods read."""


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

    def maps(self, needs: Set[str]) -> OutputMaps:
        """The maps of the `PARTS` in `needs`."""
        maps = {"logits": [self.logits], "fused": [self.fused], "stages": list(self.stages)}
        return {part: maps[part] for part in PARTS if part in needs}

    @classmethod
    def from_maps(cls, maps: Mapping[str, Sequence[Tensor]]) -> Output:
        """The output with these maps, of which there is at least one; every missing map is an empty tensor."""
        nothing = next(iter(maps.values()))[0].new_empty(0)
        first, second, third, fourth = maps.get("stages", 4 * [nothing])
        return cls((first, second, third, fourth), *(maps.get(p, [nothing])[0] for p in ("fused", "logits")))


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
