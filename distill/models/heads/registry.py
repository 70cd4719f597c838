"""Registry of segmentation heads by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from distill.errors import unknown


@dataclass(frozen=True)
class HeadInputs:
    """Arguments of a head's constructor.

    Attributes:
        channels: channels of the four backbone stages.
        strides: strides of the four backbone stages, in image pixels.
        num_classes: number of classes K.
        head_channels: width of the head.
        dropout: probability with which a channel of the classifier's input is dropped in training.
    """

    channels: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]
    num_classes: int
    head_channels: int
    dropout: float


class Head(Protocol):
    """Interface of a head: takes four stages, returns (fused, logits), both at `stride`."""

    fused_channels: int
    stride: int

    def __call__(self, stages: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """`fused` B×C×h×w (the classifier's input, before dropout) and `logits` B×K×h×w."""
        ...


@dataclass(frozen=True)
class HeadCard:
    """Description of a head: its paper, its defaults and its class.

    Attributes:
        name: the part of a model's name before the dash.
        title: the paper's name for it.
        paper: title, venue and arXiv number.
        output_stride: stride to which backbones that support it are dilated; None keeps the backbone's own.
        default_channels: width of the head for (backbone name, channels of the last stage).
        build: the head's class.
        result_version: raised when a change alters the last bits of the output; from 2 on it is part of trial ids.
    """

    name: str
    title: str
    paper: str
    output_stride: int | None
    default_channels: Callable[[str, int], int]
    build: Callable[[HeadInputs], nn.Module]
    result_version: int = 1


_HEADS: dict[str, HeadCard] = {}
_WIDE = 1024


def width_by_backbone(*, wide: int, narrow: int) -> Callable[[str, int], int]:
    """Head width `wide` for backbones with at least 1024 channels in the last stage, `narrow` for others.

    This reproduces published model sizes: ResNet-101 on one side, ResNet-18 and MobileNetV2 on the other.
    """
    return lambda backbone, last_channels: wide if last_channels >= _WIDE else narrow


def register_head(
    name: str,
    *,
    title: str,
    paper: str,
    output_stride: int | None,
    default_channels: Callable[[str, int], int],
    result_version: int = 1,
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register the decorated class, built from `HeadInputs`, as the head `name`."""

    def register(build: type[nn.Module]) -> type[nn.Module]:
        _HEADS[name] = HeadCard(name, title, paper, output_stride, default_channels, build, result_version)
        return build

    return register


def list_heads() -> list[str]:
    """Names of all heads, sorted."""
    return sorted(_HEADS)


def head_card(name: str) -> HeadCard:
    """The card of a head; raises `UsageError` naming the nearest known one."""
    if name not in _HEADS:
        raise unknown("head", name, _HEADS)
    return _HEADS[name]
