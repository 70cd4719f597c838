"""FitNet: the student's features, through a 1×1 convolution, equal the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from torch import Tensor

from distill.methods.config import MethodConfig
from distill.methods.kd import WithKD, WithKDConfig
from distill.methods.pixels import (
    grid,
    in_float32,
    keep_valid,
    mean_over_valid,
    resize,
    valid_on,
    valid_pixels,
)
from distill.methods.registry import Card, register
from distill.methods.taps import ChannelAlignment, Tap, tap_features, tap_map

if TYPE_CHECKING:
    from distill.models.output import MapName, ModelInfo, Output


@in_float32
def feature_mse(student_features: Tensor, teacher_features: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean (f_s − f_t)² over valid positions and channels (Romero 2015, eq. 3).

    Args:
        student_features: aligned to the teacher's channels, `B×C×h×w`; the loss is computed on its grid.
        teacher_features: `B×C×h'×w'`, resized bilinearly.
        valid: `B×h×w` bool, valid positions; None means all.

    Returns:
        A 0-dim float32 tensor with a gradient to the student only.
    """
    valid_bhw = valid_on(valid, student_features)
    teacher_bchw = keep_valid(resize(teacher_features.detach(), grid(student_features)), valid_bhw)
    squares = (keep_valid(student_features, valid_bhw) - teacher_bchw).square()
    return mean_over_valid(squares.mean(1), valid_bhw)


class FitNetConfig(WithKDConfig):
    """Settings of FitNet."""

    fitnet_weight: float = Field(10.0, ge=0, le=1e6, description="weight λ of the feature term")
    tap: Tap = Field("fused", description="which features are compared")


@register
class FitNet(WithKD):
    """Term `fitnet`: `feature_mse` at a tap; additional term `kd`."""

    Config: ClassVar[type[MethodConfig]] = FitNetConfig
    config: FitNetConfig
    card: ClassVar[Card] = Card(
        name="fitnet",
        title="FitNets: Hints for Thin Deep Nets",
        authors="Romero, Ballas, Kahou, Chassang, Gatta, Bengio",
        venue="ICLR",
        year=2015,
        url="https://arxiv.org/abs/1412.6550",
        family="features",
        needs=("teacher", "labels", "logits", "stages", "fused"),
        differs="Trained together with the task, not as a first stage. Ignored pixels are left out.",
    )

    def __init__(
        self, config: FitNetConfig, student: ModelInfo, teacher: ModelInfo | None, num_classes: int
    ) -> None:
        super().__init__(config, student, teacher, num_classes)
        if self.is_active("fitnet"):
            self.alignment = ChannelAlignment(student, self.teacher_info, config.tap)

    @property
    def needs(self) -> frozenset[MapName]:
        """See `Method.needs`."""
        return self.maps_of_terms(fitnet=tap_map(self.teacher_info, self.config.tap), kd="logits")

    @property
    def weights(self) -> dict[str, float]:
        """`fitnet`: λ; `kd`: weight of the additional logits distillation."""
        return {"fitnet": self.config.fitnet_weight, "kd": self.config.kd_weight}

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Terms `fitnet` and `kd`."""
        teacher_output = self.require_teacher(teacher)
        terms = self.logits_terms(student, teacher_output, labels)
        if self.is_active("fitnet"):
            student_maps = tap_features(student, self.student_info, self.config.tap)
            teacher_maps = tap_features(teacher_output, self.teacher_info, self.config.tap)
            valid = valid_pixels(labels, grid(student_maps))
            terms["fitnet"] = feature_mse(
                self.alignment(keep_valid(student_maps, valid)), teacher_maps, valid
            )
        return terms
