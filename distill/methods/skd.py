"""SKD: matches the cosine similarities between all positions of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from distill.methods.config import MethodConfig
from distill.methods.kd import WithKD, WithKDConfig
from distill.methods.pixels import grid, in_float32, product, product_type, resize, valid_on, valid_pixels
from distill.methods.registry import Card, register
from distill.methods.relations import max_pool_valid, sum_over_row_blocks, unit_channels
from distill.methods.taps import Tap, tap_features, tap_map

if TYPE_CHECKING:
    from distill.models.output import MapName, Output


@in_float32
def pairwise_similarity(
    student_features: Tensor,
    teacher_features: Tensor,
    pool: int = 2,
    valid: Tensor | None = None,
    products: torch.dtype | None = None,
) -> Tensor:
    """Mean (A_s − A_t)², A the cosines between all positions of an image after max-pooling (Liu 2019, eq. 2).

    Args:
        student_features: `B×C_s×h×w`; the loss is computed on its grid.
        teacher_features: `B×C_t×h'×w'`, resized bilinearly; channels may differ.
        pool: kernel and stride of the pooling, ceil mode.
        valid: `B×h×w` bool, valid positions; None means all. The mean is over pairs of valid pooled
            positions.
        products: type of the inputs of the matrix products; None leaves it.

    Returns:
        A 0-dim float32 tensor with a gradient to the student only.
    """
    valid_bhw = valid_on(valid, student_features)
    teacher_bchw = resize(teacher_features.detach(), grid(student_features))
    student_pooled, pooled_valid = max_pool_valid(student_features, valid_bhw, pool)
    teacher_pooled, _ = max_pool_valid(teacher_bchw, valid_bhw, pool)
    # Cells without valid pixels are zero vectors in both networks, so they add nothing.
    student_bcn = unit_channels(student_pooled).flatten(2)
    teacher_bcn = unit_channels(teacher_pooled).flatten(2)

    pairs = pooled_valid.flatten(1).sum(1).square().sum().clamp(min=1)
    return _squared_differences(student_bcn, teacher_bcn, products) / pairs


def _squared_differences(student_bcn: Tensor, teacher_bcn: Tensor, products: torch.dtype | None) -> Tensor:
    """Σ (SᵀS − TᵀT)² over images and pairs of positions, without a tensor of all pairs.

    ‖SᵀS − TᵀT‖² = ‖SSᵀ‖² − 2‖STᵀ‖² + ‖TTᵀ‖² (Frobenius) needs products of channels with channels only, which is N/C
    times less work than pairs of positions. With fewer positions than channels the pairs are cheaper and are computed.
    """
    batch, _, positions = student_bcn.shape
    if positions > max(student_bcn.shape[1], teacher_bcn.shape[1]):
        pairs = (
            (student_bcn, student_bcn, 1),
            (student_bcn, teacher_bcn, -2),
            (teacher_bcn, teacher_bcn, 1),
        )
        # The three sums nearly cancel for a trained student, so they are added in float64, and never in bfloat16.
        parts = [k * (a @ b.transpose(1, 2)).double().square().sum() for a, b, k in pairs]
        return torch.stack(parts).sum().to(student_bcn.dtype)

    def squares(rows: slice) -> Tensor:
        student_brn = product(student_bcn[:, :, rows].transpose(1, 2), student_bcn, products)
        teacher_brn = product(teacher_bcn[:, :, rows].transpose(1, 2), teacher_bcn, products)
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
    """Term `skd`: `pairwise_similarity` at a tap; additional term `kd`."""

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
    def needs(self) -> frozenset[MapName]:
        """See `Method.needs`."""
        return self.maps_of_terms(skd=tap_map(self.teacher_info, self.config.tap), kd="logits")

    @property
    def weights(self) -> dict[str, float]:
        """`skd`: λ; `kd`: weight of the additional logits distillation."""
        return {"skd": self.config.skd_weight, "kd": self.config.kd_weight}

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Terms `skd` and `kd`."""
        teacher_output = self.require_teacher(teacher)
        terms = self.logits_terms(student, teacher_output, labels)
        if self.is_active("skd"):
            student_maps = tap_features(student, self.student_info, self.config.tap)
            teacher_maps = tap_features(teacher_output, self.teacher_info, self.config.tap)
            valid = valid_pixels(labels, grid(student_maps))
            products = product_type(student_maps)
            terms["skd"] = pairwise_similarity(student_maps, teacher_maps, self.config.pool, valid, products)
        return terms
