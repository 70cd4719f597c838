"""SKD: how alike two places of a picture are follows the teacher's view."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from distill.methods.config import MethodConfig
from distill.methods.kd import WithKD, WithKDConfig
from distill.methods.pixels import grid, in_float32, resize, valid_on, valid_pixels
from distill.methods.registry import Card, register
from distill.methods.relations import max_pool_valid, sum_over_row_blocks, unit_channels
from distill.methods.taps import Tap, tap_features

if TYPE_CHECKING:
    from distill.models.output import Output


@in_float32
def pairwise_similarity(
    student_features: Tensor, teacher_features: Tensor, pool: int = 2, valid: Tensor | None = None
) -> Tensor:
    """Mean (A_s − A_t)², A the cosines between all positions of an image after max-pooling (Liu 2019, eq. 2).

    Args:
        student_features: `B×C_s×h×w`; its grid is the one that counts.
        teacher_features: `B×C_t×h'×w'`, resized bilinearly; channels may differ.
        pool: kernel and stride of the pooling, ceil mode.
        valid: `B×h×w` bool, positions that count; all where None. The mean is over pairs of valid pooled
            positions.

    Returns:
        A 0-dim float32 tensor with a gradient to the student only.
    """
    valid_bhw = valid_on(valid, student_features)
    teacher_bchw = resize(teacher_features.detach(), grid(student_features))
    student_pooled, pooled_valid = max_pool_valid(student_features, valid_bhw, pool)
    teacher_pooled, _ = max_pool_valid(teacher_bchw, valid_bhw, pool)
    # Positions without valid pixels are zero vectors, alike to nothing on both sides: they add nothing.
    student_bcn = unit_channels(student_pooled).flatten(2)
    teacher_bcn = unit_channels(teacher_pooled).flatten(2)

    pairs = pooled_valid.flatten(1).sum(1).square().sum().clamp(min=1)
    return _squared_differences(student_bcn, teacher_bcn) / pairs


def _squared_differences(student_bcn: Tensor, teacher_bcn: Tensor) -> Tensor:
    """Σ (SᵀS − TᵀT)² over images and pairs of positions, without holding all pairs, nor forming more than need be.

    ‖SᵀS − TᵀT‖² = ‖SSᵀ‖² − 2‖STᵀ‖² + ‖TTᵀ‖² (Frobenius): products of channels with channels, N/C times less work than
    pairs of positions. Where there are fewer positions than channels the pairs are formed, and it is they that are less.
    """
    batch, _, positions = student_bcn.shape
    if positions > max(student_bcn.shape[1], teacher_bcn.shape[1]):
        products = (
            (student_bcn, student_bcn, 1),
            (student_bcn, teacher_bcn, -2),
            (teacher_bcn, teacher_bcn, 1),
        )
        # The three nearly cancel where the student has learned: their sums are kept in float64.
        parts = [k * (a @ b.transpose(1, 2)).double().square().sum() for a, b, k in products]
        return torch.stack(parts).sum().to(student_bcn.dtype)

    def squares(rows: slice) -> Tensor:
        student_brn = student_bcn[:, :, rows].transpose(1, 2) @ student_bcn
        teacher_brn = teacher_bcn[:, :, rows].transpose(1, 2) @ teacher_bcn
        return (student_brn - teacher_brn).square().sum()

    return sum_over_row_blocks(squares, positions, batch * positions)


class SKDConfig(WithKDConfig):
    """Settings of SKD."""

    skd_weight: float = Field(10.0, ge=0, le=1e6, description="weight λ of the pairwise term")
    pool: int = Field(
        2, ge=1, le=64, description="kernel and stride of the max-pooling before the comparison"
    )
    tap: Tap = Field("fused", description="which features are compared")


@register
class SKD(WithKD):
    """Term `skd`: `pairwise_similarity` at a tap; term `kd` beside it."""

    Config: ClassVar[type[MethodConfig]] = SKDConfig
    config: SKDConfig
    card: ClassVar[Card] = Card(
        name="skd",
        title="Structured Knowledge Distillation for Semantic Segmentation",
        authors="Liu, Chen, Liu, Qin, Luo, Wang",
        venue="CVPR",
        year=2019,
        url="https://arxiv.org/abs/1903.04197",
        family="relations",
        needs=("teacher", "labels", "logits", "stages", "fused"),
        differs="Pixel-wise and pair-wise terms; the holistic term, a GAN, is left out. "
        "Ignored pixels are left out.",
    )

    @property
    def weights(self) -> dict[str, float]:
        """`skd`: λ; `kd`: that of the logits distillation beside it."""
        return {"skd": self.config.skd_weight, "kd": self.config.kd_weight}

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Terms `skd` and `kd`."""
        taught = self.require_teacher(teacher)
        terms = self.logits_terms(student, taught, labels)
        if self.is_active("skd"):
            mine = tap_features(student, self.student_info, self.config.tap)
            theirs = tap_features(taught, self.teacher_info, self.config.tap)
            valid = valid_pixels(labels, grid(mine))
            terms["skd"] = pairwise_similarity(mine, theirs, self.config.pool, valid)
        return terms
