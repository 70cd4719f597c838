"""AT: matches spatial attention maps, the mean over channels of squared features."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from torch import Tensor

from distill.methods.config import MethodConfig
from distill.methods.kd import WithKD, WithKDConfig
from distill.methods.pixels import grid, in_float32, keep_valid, resize, valid_on, valid_pixels
from distill.methods.registry import Card, register
from distill.methods.relations import unit_channels
from distill.methods.taps import Tap, tap_features, tap_map

if TYPE_CHECKING:
    from distill.models.output import MapName, Output


@in_float32
def attention_transfer(
    student_features: Tensor, teacher_features: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Mean (a_s − a_t)², where a is the mean over channels of f², normalised to length 1 per image (Zagoruyko 2017, eq. 2).

    Args:
        student_features: `B×C_s×h×w`; the loss is computed on its grid.
        teacher_features: `B×C_t×h'×w'`, resized bilinearly; channels may differ.
        valid: `B×h×w` bool, valid positions, used in norms and mean; None means all.

    Returns:
        A 0-dim float32 tensor with a gradient to the student only.
    """
    valid_bhw = valid_on(valid, student_features)
    teacher_bchw = keep_valid(resize(teacher_features.detach(), grid(student_features)), valid_bhw)
    student_bn = keep_valid(student_features, valid_bhw).square().mean(1).flatten(1)
    teacher_bn = teacher_bchw.square().mean(1).flatten(1)
    squares = (unit_channels(student_bn) - unit_channels(teacher_bn)).square().sum()
    return squares / valid_bhw.sum().clamp(min=1)


class ATConfig(WithKDConfig):
    """Settings of AT."""

    at_weight: float = Field(1e4, ge=0, le=1e8, description="weight λ of the attention term")
    tap: Tap = Field("fused", description="which features are compared")


@register
class AT(WithKD):
    """Term `at`: `attention_transfer` at a tap; additional term `kd`."""

    Config: ClassVar[type[MethodConfig]] = ATConfig
    config: ATConfig
    card: ClassVar[Card] = Card(
        name="at",
        title="Paying More Attention to Attention",
        authors="Zagoruyko, Komodakis",
        venue="ICLR",
        year=2017,
        url="https://arxiv.org/abs/1612.03928",
        family="features",
        needs=("teacher", "labels", "logits", "stages", "fused"),
        differs="One tap in place of several. Ignored pixels are left out.",
    )

    @property
    def needs(self) -> frozenset[MapName]:
        """See `Method.needs`."""
        return self.maps_of_terms(at=tap_map(self.teacher_info, self.config.tap), kd="logits")

    @property
    def weights(self) -> dict[str, float]:
        """`at`: λ; `kd`: weight of the additional logits distillation."""
        return {"at": self.config.at_weight, "kd": self.config.kd_weight}

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Terms `at` and `kd`."""
        teacher_output = self.require_teacher(teacher)
        terms = self.logits_terms(student, teacher_output, labels)
        if self.is_active("at"):
            student_maps = tap_features(student, self.student_info, self.config.tap)
            teacher_maps = tap_features(teacher_output, self.teacher_info, self.config.tap)
            terms["at"] = attention_transfer(
                student_maps, teacher_maps, valid_pixels(labels, grid(student_maps))
            )
        return terms
