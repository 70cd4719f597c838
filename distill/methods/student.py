"""The student alone: the row every other one is measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from distill.methods.config import MethodConfig
from distill.methods.registry import Card, Method, register

if TYPE_CHECKING:
    from distill.models.output import Output


class StudentConfig(MethodConfig):
    """Nothing to set: a sweep searches the recipe instead."""


@register
class StudentAlone(Method):
    """Cross-entropy only, which the training step adds; no terms of its own and no teacher."""

    Config: ClassVar[type[MethodConfig]] = StudentConfig
    card: ClassVar[Card] = Card(
        name="student",
        title="Fully Convolutional Networks for Semantic Segmentation",
        authors="Long, Shelhamer, Darrell",
        venue="CVPR",
        year=2015,
        url="https://arxiv.org/abs/1411.4038",
        family="baseline",
        needs=(),
    )

    @property
    def weights(self) -> dict[str, float]:
        """Empty."""
        return {}

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Empty."""
        return {}
