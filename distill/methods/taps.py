"""Taps: the feature map that a method reads, and the 1×1 convolution that aligns its channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from distill.models.output import MapName, ModelInfo, Output

Tap = Literal["stage1", "stage2", "stage3", "stage4", "stride8", "fused"]

_STAGES: tuple[MapName, ...] = ("stage1", "stage2", "stage3", "stage4")


def stride8_stage(strides: tuple[int, int, int, int]) -> int:
    """Index of the deepest stage of stride at most 8, or else of the deepest stage whose stride is nearest to 8."""
    fine = [i for i, stride in enumerate(strides) if stride <= 8]
    if fine:
        return fine[-1]
    return min(range(len(strides)), key=lambda i: (abs(strides[i] - 8), -i))


def _stage(info: ModelInfo, tap: Tap) -> int:
    return stride8_stage(info.strides) if tap == "stride8" else int(tap.removeprefix("stage")) - 1


def tap_features(output: Output, info: ModelInfo, tap: Tap) -> Tensor:
    """The map at a tap, `B×C×h×w`: a backbone stage, or the classifier's input."""
    return output.fused if tap == "fused" else output.stages[_stage(info, tap)]


def tap_map(info: ModelInfo, tap: Tap) -> MapName:
    """Name of the map at a tap."""
    return "fused" if tap == "fused" else _STAGES[_stage(info, tap)]


def tap_channels(info: ModelInfo, tap: Tap) -> int:
    """Channels of the map at a tap."""
    return info.fused_channels if tap == "fused" else info.channels[_stage(info, tap)]


def tap_stride(info: ModelInfo, tap: Tap) -> int:
    """Stride of the map at a tap, in image pixels."""
    return info.fused_stride if tap == "fused" else info.strides[_stage(info, tap)]


def for_layer(features: Tensor, layer: nn.Module) -> Tensor:
    """Features in the layer's dtype, unless autocast is on: a teacher's features may be bfloat16."""
    if torch.is_autocast_enabled(features.device.type):
        return features
    return features.to(next(layer.parameters()).dtype)


class ChannelAlignment(nn.Module):
    """A 1×1 convolution without bias from the student's channels to the teacher's."""

    def __init__(self, student: ModelInfo, teacher: ModelInfo, tap: Tap) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(tap_channels(student, tap), tap_channels(teacher, tap), 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """`B×C_s×h×w` to `B×C_t×h×w`."""
        aligned: Tensor = self.convolution(for_layer(features, self))
        return aligned
