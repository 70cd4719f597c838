"""KD: per-pixel KL divergence of class probabilities. Several other methods add this term to their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from distill.methods.config import MethodConfig
from distill.methods.pixels import (
    grid,
    in_float32,
    keep_valid,
    mean_over_valid,
    resize,
    soften,
    valid_on,
    valid_pixels,
)
from distill.methods.registry import Card, Method, register

if TYPE_CHECKING:
    from distill.models.output import MapName, Output


@in_float32
def pixel_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, valid: Tensor | None = None
) -> Tensor:
    """T²·mean over valid pixels of KL(softmax(z_t/T) ‖ softmax(z_s/T)) (Hinton 2015, section 2).

    Args:
        student_logits: `B×K×h×w`; the loss is computed on its grid.
        teacher_logits: `B×K×h'×w'`, resized bilinearly.
        temperature: T, above 0.
        valid: `B×h×w` bool, valid pixels; None means all.

    Returns:
        A 0-dim float32 tensor with a gradient to the student only.
    """
    valid_bhw = valid_on(valid, student_logits)
    teacher_bkhw = resize(teacher_logits.detach(), grid(student_logits))
    log_student = F.log_softmax(soften(keep_valid(student_logits, valid_bhw), temperature), dim=1)
    log_teacher = F.log_softmax(soften(keep_valid(teacher_bkhw, valid_bhw), temperature), dim=1)
    divergence_bhw = (log_teacher.exp() * (log_teacher - log_student)).sum(1)
    return temperature**2 * mean_over_valid(divergence_bhw, valid_bhw)


class WithKDConfig(MethodConfig):
    """Settings of the logits distillation that a method's authors add to their own term."""

    kd_weight: float = Field(
        1.0,
        ge=0,
        le=1e4,
        description="weight of the per-pixel logits distillation added to the method's own term",
        json_schema_extra={"combined_default": 0.0},
    )
    kd_temperature: float = Field(1.0, gt=0, le=100, description="temperature of that logits distillation")


class WithKD(Method):
    """A method whose authors add per-pixel logits distillation, term `kd`."""

    config: WithKDConfig

    def logits_terms(self, student: Output, teacher: Output, labels: Tensor) -> dict[str, Tensor]:
        """The `kd` term if its weight is above 0, else no term."""
        if not self.is_active("kd"):
            return {}
        valid = valid_pixels(labels, grid(student.logits))
        return {"kd": pixel_kl(student.logits, teacher.logits, self.config.kd_temperature, valid)}


class KDConfig(MethodConfig):
    """Settings of KD."""

    kd_weight: float = Field(1.0, ge=0, le=1e4, description="weight λ of the logits distillation")
    temperature: float = Field(1.0, gt=0, le=100, description="temperature T of both softmaxes")


@register
class KD(Method):
    """Term `kd`: `pixel_kl` of the final logits on the student's grid."""

    Config: ClassVar[type[MethodConfig]] = KDConfig
    config: KDConfig
    card: ClassVar[Card] = Card(
        name="kd",
        title="Distilling the Knowledge in a Neural Network",
        authors="Hinton, Vinyals, Dean",
        venue="NIPS workshop",
        year=2015,
        url="https://arxiv.org/abs/1503.02531",
        family="logits",
        needs=("teacher", "labels", "logits"),
        differs="Applied to each pixel; ignored pixels are left out.",
    )

    @property
    def needs(self) -> frozenset[MapName]:
        """See `Method.needs`."""
        return self.maps_of_terms(kd="logits")

    @property
    def weights(self) -> dict[str, float]:
        """`kd`: λ."""
        return {"kd": self.config.kd_weight}

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Term `kd`."""
        if not self.is_active("kd"):
            return {}
        valid = valid_pixels(labels, grid(student.logits))
        return {
            "kd": pixel_kl(
                student.logits, self.require_teacher(teacher).logits, self.config.temperature, valid
            )
        }
