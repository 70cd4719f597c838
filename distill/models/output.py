"""What a segmentation model returns, and what others may know of it without holding it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict
from torch import Tensor

PARTS = ("logits", "fused", "stages")
"""Of an output, in the words in which methods say what they need (`Card.needs`)."""


@dataclass(frozen=True)
class Output:
    """One forward pass.

    Attributes:
        stages: four backbone maps, `B×C_i×H/s_i×W/s_i`, strides as in `ModelInfo.strides`.
        fused: what the classifier sees, `B×C×h×w`.
        logits: class scores at the head's own stride, `B×K×h×w`; upsampling belongs to loss and metric.
    """

    stages: tuple[Tensor, Tensor, Tensor, Tensor]
    fused: Tensor
    logits: Tensor

    def maps_of(self, needs: Set[str]) -> dict[str, list[Tensor]]:
        """The maps of those `PARTS` that are needed, four of the stages and one each of the others."""
        maps = {"logits": [self.logits], "fused": [self.fused], "stages": list(self.stages)}
        return {part: maps[part] for part in PARTS if part in needs}

    @classmethod
    def of_maps(cls, maps: Mapping[str, Sequence[Tensor]], nothing: Tensor) -> Output:
        """The reverse; in place of what is missing stands `nothing`."""
        first, second, third, fourth = maps.get("stages", 4 * [nothing])
        return cls((first, second, third, fourth), *(maps.get(p, [nothing])[0] for p in ("fused", "logits")))


@dataclass(frozen=True)
class ModelInfo:
    """Shapes of a model, enough to build a distillation method for it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    family: Literal["cnn", "transformer"]
    num_classes: int
    channels: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]
    fused_channels: int
    fused_stride: int
    logits_stride: int
