"""OFA: classifies each student stage and compares class probabilities, whatever the two architectures are."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from distill.methods.config import MethodConfig
from distill.methods.pixels import (
    grid,
    in_float32,
    keep_valid,
    mean_over_valid,
    one_hot,
    resize,
    resize_labels,
    valid_pixels,
)
from distill.methods.registry import Card, Method, register
from distill.methods.taps import for_layer

if TYPE_CHECKING:
    from distill.models.output import MapName, ModelInfo, Output


@in_float32
def target_enhanced(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, gamma: float = 1.5
) -> Tensor:
    """−mean over valid pixels of Σ_c [(p_t + y)^γ − y]·log p_s (Hao 2023).

    The exponent γ increases the target's weight on the true class.

    Args:
        student_logits: `B×K×h×w`; the loss is computed on its grid.
        teacher_logits: `B×K×h'×w'`, resized bilinearly.
        labels: `B×H×W` int64, 255 ignored, resized to the grid by nearest neighbour.
        gamma: γ, at least 1; 1 gives the cross-entropy to the teacher's probabilities.

    Returns:
        A 0-dim float32 tensor with a gradient to the student only.
    """
    labels_bhw = resize_labels(labels, grid(student_logits))
    valid_bhw = valid_pixels(labels_bhw)
    with torch.no_grad():
        teacher_bkhw = keep_valid(resize(teacher_logits, grid(student_logits)), valid_bhw)
        truth = one_hot(labels_bhw, student_logits.shape[1]).to(teacher_bkhw.dtype)
        target = (F.softmax(teacher_bkhw, dim=1) + truth) ** gamma - truth
    log_student = F.log_softmax(keep_valid(student_logits, valid_bhw), dim=1)
    return -mean_over_valid((target * log_student).sum(1), valid_bhw)


class StageClassifier(nn.Module):
    """Class logits of a stage: 1×1 convolution, BatchNorm, ReLU, 1×1 convolution."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, num_classes, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """`B×C×h×w` to `B×K×h×w`."""
        logits: Tensor = self.layers(for_layer(features, self))
        return logits


class OFAConfig(MethodConfig):
    """Settings of OFA."""

    ofa_weight: float = Field(1.0, ge=0, le=1e4, description="weight λ of the term at the final logits")
    stages_weight: float = Field(
        1.0, ge=0, le=1e4, description="weight of the sum of the terms at the student's four stages"
    )
    gamma: float = Field(
        1.5, ge=1, le=10, description="exponent γ that raises the target's share of the true class"
    )


@register
class OFA(Method):
    """Terms `ofa` at the final logits and `stages`, the sum over the student's stages."""

    Config: ClassVar[type[MethodConfig]] = OFAConfig
    config: OFAConfig
    card: ClassVar[Card] = Card(
        name="ofa",
        title="One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
        authors="Hao, Guo, Han, Tang, Hu, Wang, Xu",
        venue="NeurIPS",
        year=2023,
        url="https://arxiv.org/abs/2310.19444",
        family="heterogeneous",
        needs=("teacher", "labels", "logits", "stages"),
        differs="Made for image classification; here for each pixel, with 1×1 convolutions as the stages' branches. Their "
        "BatchNorm sees ignored pixels too.",
    )

    def __init__(
        self, config: OFAConfig, student: ModelInfo, teacher: ModelInfo | None, num_classes: int
    ) -> None:
        super().__init__(config, student, teacher, num_classes)
        channels = student.channels if self.is_active("stages") else ()
        self.classifiers = nn.ModuleList(StageClassifier(c, num_classes) for c in channels)

    @property
    def needs(self) -> frozenset[MapName]:
        """See `Method.needs`."""
        return self.maps_of_terms(ofa="logits", stages="logits")

    @property
    def weights(self) -> dict[str, float]:
        """`ofa`: weight at the final logits; `stages`: weight of the sum over stages."""
        return {"ofa": self.config.ofa_weight, "stages": self.config.stages_weight}

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Terms `ofa` and `stages`."""
        teacher_output, gamma, terms = self.require_teacher(teacher), self.config.gamma, {}
        if self.is_active("ofa"):
            terms["ofa"] = target_enhanced(student.logits, teacher_output.logits, labels, gamma)
        if self.is_active("stages"):
            losses = [
                target_enhanced(classify(stage), teacher_output.logits, labels, gamma)
                for classify, stage in zip(self.classifiers, student.stages, strict=True)
            ]
            terms["stages"] = torch.stack(losses).sum()
        return terms
