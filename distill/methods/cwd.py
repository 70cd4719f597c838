"""CWD: matches each channel's distribution over positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from distill.methods.config import MethodConfig
from distill.methods.kd import WithKD, WithKDConfig
from distill.methods.pixels import (
    grid,
    in_float32,
    keep_valid,
    lowest,
    resize,
    soften,
    valid_on,
    valid_pixels,
)
from distill.methods.registry import Card, register
from distill.methods.taps import ChannelAlignment, Tap, tap_features, tap_map

if TYPE_CHECKING:
    from distill.models.output import MapName, ModelInfo, Output

_DEFAULT_WEIGHT = {"logits": 3.0, "features": 50.0}


@in_float32
def channel_kl(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, valid: Tensor | None = None
) -> Tensor:
    """T²/(B·C)·Σ KL(φ_t ‖ φ_s), φ = softmax over space of each channel of x/T (Shu 2021).

    Args:
        student: logits or features, `B×C×h×w`; the loss is computed on its grid.
        teacher: the same number of channels, resized bilinearly.
        temperature: T, above 0.
        valid: `B×h×w` bool; False positions are excluded from the softmax. None includes all.

    Returns:
        A 0-dim float32 tensor with a gradient to the student only.
    """
    valid_bhw = valid_on(valid, student)
    empty = lowest(student) * min(1.0, temperature)  # stays finite after division by T
    teacher_bchw = keep_valid(resize(teacher.detach(), grid(student)), valid_bhw, empty)
    student_bchw = keep_valid(student, valid_bhw, empty)
    log_student = F.log_softmax(soften(student_bchw, temperature).flatten(2), dim=2)
    log_teacher = F.log_softmax(soften(teacher_bchw, temperature).flatten(2), dim=2)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum()
    return temperature**2 / (student.shape[0] * student.shape[1]) * divergence


class CWDConfig(WithKDConfig):
    """Settings of CWD."""

    where: Literal["logits", "features"] = Field(
        "logits", description="compare final logits, or features at `tap` through a 1×1 convolution"
    )
    cwd_weight: float | None = Field(
        None,
        ge=0,
        le=1e5,
        description="weight λ of the channel-wise term; left out: 3 on logits, 50 on features",
        json_schema_extra={"default_by": {"where": dict(_DEFAULT_WEIGHT)}},
    )
    temperature: float = Field(4.0, gt=0, le=100, description="temperature T of the softmax over space")
    tap: Tap = Field("fused", description="which features, where `where` is features")


@register
class CWD(WithKD):
    """Term `cwd`: `channel_kl` of logits or aligned features; additional term `kd`."""

    Config: ClassVar[type[MethodConfig]] = CWDConfig
    picture_terms: ClassVar[frozenset[str]] = frozenset({"cwd"})
    config: CWDConfig
    card: ClassVar[Card] = Card(
        name="cwd",
        title="Channel-wise Knowledge Distillation for Dense Prediction",
        authors="Shu, Liu, Gao, Yan, Shen",
        venue="ICCV",
        year=2021,
        url="https://arxiv.org/abs/2011.13256",
        family="logits",
        needs=("teacher", "labels", "logits", "stages", "fused"),
        differs="Ignored pixels take no part in the softmax over space.",
    )

    def __init__(
        self, config: CWDConfig, student: ModelInfo, teacher: ModelInfo | None, num_classes: int
    ) -> None:
        super().__init__(config, student, teacher, num_classes)
        self.alignment: ChannelAlignment | None = None
        if config.where == "features" and self.is_active("cwd"):
            self.alignment = ChannelAlignment(student, self.teacher_info, config.tap)

    @property
    def needs(self) -> frozenset[MapName]:
        """See `Method.needs`."""
        on_logits = self.config.where == "logits"
        compared = "logits" if on_logits else tap_map(self.teacher_info, self.config.tap)
        return self.maps_of_terms(cwd=compared, kd="logits")

    @property
    def weights(self) -> dict[str, float]:
        """`cwd`: λ; `kd`: weight of the additional logits distillation."""
        weight = self.config.cwd_weight
        return {
            "cwd": _DEFAULT_WEIGHT[self.config.where] if weight is None else weight,
            "kd": self.config.kd_weight,
        }

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Terms `cwd` and `kd`."""
        teacher_output = self.require_teacher(teacher)
        terms = self.logits_terms(student, teacher_output, labels)
        if not self.is_active("cwd"):
            return terms
        if self.alignment is None:
            student_maps, teacher_maps = student.logits, teacher_output.logits
            valid = valid_pixels(labels, grid(student_maps))
        else:
            teacher_maps = tap_features(teacher_output, self.teacher_info, self.config.tap)
            student_maps = tap_features(student, self.student_info, self.config.tap)
            valid = valid_pixels(labels, grid(student_maps))
            student_maps = self.alignment(keep_valid(student_maps, valid))
        return {**terms, "cwd": channel_kl(student_maps, teacher_maps, self.config.temperature, valid)}
