"""What a segmentation model returns, and what others may know of it without holding it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict
from torch import Tensor


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
