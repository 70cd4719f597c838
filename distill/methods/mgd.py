"""MGD: restores the teacher's features from the student's after masking most positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from distill.methods.config import MethodConfig
from distill.methods.cwd import channel_kl
from distill.methods.pixels import grid, in_float32, keep_valid, resize, valid_on, valid_pixels
from distill.methods.registry import Card, Method, register
from distill.methods.taps import ChannelAlignment, Tap, tap_channels, tap_features, tap_map

if TYPE_CHECKING:
    from distill.models.output import MapName, ModelInfo, Output


@in_float32
def masked_generation(
    restored_features: Tensor, teacher_features: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Σ (f_restored − f_t)² / B, a sum over channels and valid positions (Yang 2022).

    Args:
        restored_features: output of `MaskedGenerator`, `B×C×h×w`; the loss is computed on its grid.
        teacher_features: `B×C×h'×w'`, resized bilinearly.
        valid: `B×h×w` bool, valid positions; None means all.

    Returns:
        A 0-dim float32 tensor with a gradient to the student only.
    """
    valid_bhw = valid_on(valid, restored_features)
    teacher_bchw = keep_valid(resize(teacher_features.detach(), grid(restored_features)), valid_bhw)
    squares = (keep_valid(restored_features, valid_bhw) - teacher_bchw).square()
    return squares.sum() / restored_features.shape[0]


class MaskedGenerator(nn.Module):
    """Aligns the student's channels, sets random positions to zero and restores them.

    The restoring block is a 3×3 convolution, ReLU and a 3×3 convolution.

    Args:
        student: shapes of the student.
        teacher: shapes of the teacher.
        tap: the features to restore.
        masked_share: probability that a position is masked.
    """

    def __init__(self, student: ModelInfo, teacher: ModelInfo, tap: Tap, masked_share: float) -> None:
        super().__init__()
        channels = tap_channels(teacher, tap)
        self.masked_share = masked_share
        self.alignment = ChannelAlignment(student, teacher, tap)
        self.restore = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """`B×C_s×h×w` to `B×C_t×h×w`."""
        aligned = self.alignment(features)
        chance = torch.rand(aligned.shape[0], 1, *grid(aligned), device=aligned.device)
        restored: Tensor = self.restore(torch.where(chance < self.masked_share, 0.0, aligned))
        return restored


class MGDConfig(MethodConfig):
    """Settings of MGD."""

    cwd_weight: float = Field(
        3.0,
        ge=0,
        le=1e5,
        description="weight of the channel-wise term at the logits, which the authors' code adds",
        json_schema_extra={"combined_default": 0.0},
    )
    cwd_temperature: float = Field(4.0, gt=0, le=100, description="temperature of that channel-wise term")

    mgd_weight: float = Field(2e-5, ge=0, le=1e2, description="weight λ of the restoration term, a sum")
    masked_share: float = Field(0.75, ge=0, lt=1, description="share of positions masked")
    tap: Tap = Field("stage4", description="which features are restored")


@register
class MGD(Method):
    """Term `mgd`: `masked_generation` at a tap; additional term `cwd`: `channel_kl` of the logits."""

    Config: ClassVar[type[MethodConfig]] = MGDConfig
    config: MGDConfig
    picture_terms: ClassVar[frozenset[str]] = frozenset({"mgd", "cwd"})
    result_version: ClassVar[int] = 2  # 2: with CWD at the logits
    card: ClassVar[Card] = Card(
        name="mgd",
        title="Masked Generative Distillation",
        authors="Yang, Li, Shao, Shi, Yuan, Yuan",
        venue="ECCV",
        year=2022,
        url="https://arxiv.org/abs/2205.01529",
        family="features",
        needs=("teacher", "labels", "logits", "stages", "fused"),
        differs="With CWD at the logits, as in the authors' code for segmentation and not in the paper. Ignored pixels are "
        "left out.",
    )

    def __init__(
        self, config: MGDConfig, student: ModelInfo, teacher: ModelInfo | None, num_classes: int
    ) -> None:
        super().__init__(config, student, teacher, num_classes)
        if self.is_active("mgd"):
            self.generator = MaskedGenerator(student, self.teacher_info, config.tap, config.masked_share)

    @property
    def needs(self) -> frozenset[MapName]:
        """See `Method.needs`."""
        return self.maps_of_terms(mgd=tap_map(self.teacher_info, self.config.tap), cwd="logits")

    @property
    def weights(self) -> dict[str, float]:
        """`mgd`: λ; `cwd`: weight of the additional channel-wise term."""
        return {"mgd": self.config.mgd_weight, "cwd": self.config.cwd_weight}

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Terms `mgd` and `cwd`."""
        teacher_output = self.require_teacher(teacher)
        terms: dict[str, Tensor] = {}
        if self.is_active("mgd"):
            student_maps = tap_features(student, self.student_info, self.config.tap)
            teacher_maps = tap_features(teacher_output, self.teacher_info, self.config.tap)
            valid = valid_pixels(labels, grid(student_maps))
            restored = self.generator(keep_valid(student_maps, valid))
            terms["mgd"] = masked_generation(restored, teacher_maps, valid)
        if self.is_active("cwd"):
            valid = valid_pixels(labels, grid(student.logits))
            temperature = self.config.cwd_temperature
            terms["cwd"] = channel_kl(student.logits, teacher_output.logits, temperature, valid)
        return terms
