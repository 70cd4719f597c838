"""DIST: maximises the correlation of class probabilities with the teacher's, over classes and over pixels."""

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

_EPSILON = 1e-16


def _correlation(student: Tensor, teacher: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Cosine of centred maps over `dim`; 0 if one of them is constant."""
    product = (student * teacher).sum(dim)
    norms = student.square().sum(dim) * teacher.square().sum(dim)
    return product * norms.clamp(min=_EPSILON).rsqrt()


@in_float32
def pearson_relation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    valid: Tensor | None = None,
) -> Tensor:
    """T²·[β·mean over pixels (1 − ρ over classes) + γ·mean over classes (1 − ρ over pixels)] (Huang 2022).

    ρ is the Pearson correlation of softmax(z/T) of student and teacher; 0 if one of them is constant.

    Args:
        student_logits: `B×K×h×w`; the loss is computed on its grid.
        teacher_logits: `B×K×h'×w'`, resized bilinearly.
        beta: β of the relation between classes.
        gamma: γ of the relation within a class, over all valid pixels of the batch.
        temperature: T, above 0.
        valid: `B×h×w` bool, valid pixels; None means all.

    Returns:
        A 0-dim float32 tensor with a gradient to the student only.
    """
    valid_bhw = valid_on(valid, student_logits)
    teacher_bkhw = resize(teacher_logits.detach(), grid(student_logits))
    student_p = F.softmax(soften(keep_valid(student_logits, valid_bhw), temperature), dim=1)
    teacher_p = F.softmax(soften(keep_valid(teacher_bkhw, valid_bhw), temperature), dim=1)

    over_classes = _correlation(
        student_p - student_p.mean(1, keepdim=True), teacher_p - teacher_p.mean(1, keepdim=True), (1,)
    )
    between_classes = mean_over_valid(1 - over_classes, valid_bhw)

    count = valid_bhw.sum().clamp(min=1)
    space = (0, 2, 3)
    student_p, teacher_p = keep_valid(student_p, valid_bhw), keep_valid(teacher_p, valid_bhw)
    student_p = keep_valid(student_p - student_p.sum(space, keepdim=True) / count, valid_bhw)
    teacher_p = keep_valid(teacher_p - teacher_p.sum(space, keepdim=True) / count, valid_bhw)
    within_class = (1 - _correlation(student_p, teacher_p, space)).mean() * valid_bhw.any()
    return temperature**2 * (beta * between_classes + gamma * within_class)


class DISTConfig(MethodConfig):
    """Settings of DIST."""

    dist_weight: float = Field(1.0, ge=0, le=1e4, description="weight λ of both relations")
    beta: float = Field(1.0, ge=0, le=1e3, description="factor β of the relation between classes")
    gamma: float = Field(1.0, ge=0, le=1e3, description="factor γ of the relation within each class")
    temperature: float = Field(1.0, gt=0, le=100, description="temperature T of both softmaxes")


@register
class DIST(Method):
    """Term `dist`: `pearson_relation` of the final logits on the student's grid."""

    Config: ClassVar[type[MethodConfig]] = DISTConfig
    config: DISTConfig
    card: ClassVar[Card] = Card(
        name="dist",
        title="Knowledge Distillation from A Stronger Teacher",
        authors="Huang, You, Wang, Qian, Xu",
        venue="NeurIPS",
        year=2022,
        url="https://arxiv.org/abs/2205.10536",
        family="logits",
        needs=("teacher", "labels", "logits"),
        differs="Ignored pixels are left out.",
    )

    @property
    def needs(self) -> frozenset[MapName]:
        """See `Method.needs`."""
        return self.maps_of_terms(dist="logits")

    @property
    def weights(self) -> dict[str, float]:
        """`dist`: λ."""
        return {"dist": self.config.dist_weight}

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Term `dist`."""
        if not self.is_active("dist"):
            return {}
        config = self.config
        valid = valid_pixels(labels, grid(student.logits))
        term = pearson_relation(
            student.logits,
            self.require_teacher(teacher).logits,
            config.beta,
            config.gamma,
            config.temperature,
            valid,
        )
        return {"dist": term}
