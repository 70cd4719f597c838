"""The student alone: the baseline that all other methods are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from distill.methods.config import MethodConfig
from distill.methods.registry import Card, Method, register

if TYPE_CHECKING:
    from distill.models.output import Output


class StudentConfig(MethodConfig):
    """No settings: a sweep searches the recipe's instead."""


@register
class StudentAlone(Method):
    """No terms and no teacher: the training step adds the cross-entropy."""

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
