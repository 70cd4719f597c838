"""Af-DCD: contrasts each channel group at each position with the teacher's other groups in a window."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from distill.errors import UsageError
from distill.methods.config import MethodConfig
from distill.methods.kd import WithKD, WithKDConfig
from distill.methods.mgd import MaskedGenerator, masked_generation
from distill.methods.pixels import (
    grid,
    in_float32,
    keep_valid,
    lowest,
    mean_over_valid,
    resize,
    valid_on,
    valid_pixels,
)
from distill.methods.registry import Card, register
from distill.methods.relations import max_pool_valid
from distill.methods.taps import Tap, tap_channels, tap_features, tap_map

if TYPE_CHECKING:
    from distill.models.output import MapName, ModelInfo, Output


def _windows(maps_bchw: Tensor, patch: int) -> Tensor:
    """`patch×patch` windows, zero-padded at the lower right: `B·windows × patch² × C`."""
    height, width = grid(maps_bchw)
    padded = F.pad(maps_bchw, (0, -width % patch, 0, -height % patch))
    cut = padded.unfold(2, patch, patch).unfold(3, patch, patch)
    return cut.permute(0, 2, 3, 4, 5, 1).flatten(3, 4).flatten(0, 2)


@in_float32
def omni_contrast(
    student_features: Tensor,
    teacher_features: Tensor,
    groups: int = 16,
    patch: int = 4,
    pool: int = 4,
    temperature: float = 0.07,
    valid: Tensor | None = None,
) -> Tensor:
    """Contrast of channel groups in windows, summed over groups, mean over positions and images (Fan 2023).

    Features are max-pooled and cut into windows. The similarity of two groups of channels is −L1/τ. The
    positive of a student's (position, group) is the teacher's same position and group; its negatives are
    the teacher's other groups at every position of the window.

    Args:
        student_features: aligned to the teacher's channels, `B×C×h×w`; the loss is computed on its grid.
        teacher_features: `B×C×h'×w'`, resized bilinearly.
        groups: number of channel groups, must divide C.
        patch: side of a window, in pooled positions.
        pool: kernel and stride of the max-pooling, ceil mode.
        temperature: τ, above 0.
        valid: `B×h×w` bool, valid positions; None means all.

    Returns:
        A 0-dim float32 tensor with a gradient to the student only.

    Raises:
        UsageError: `groups` does not divide C.
    """
    channels = student_features.shape[1]
    _check_groups(groups, channels)
    valid_bhw = valid_on(valid, student_features)
    teacher_bchw = keep_valid(resize(teacher_features.detach(), grid(student_features)), valid_bhw)
    student_pooled, pooled_valid = max_pool_valid(keep_valid(student_features, valid_bhw), valid_bhw, pool)
    teacher_pooled, _ = max_pool_valid(teacher_bchw, valid_bhw, pool)

    # W windows of P positions with G groups of D channels.
    valid_wp = _windows(pooled_valid[:, None].float(), patch)[..., 0] > 0
    student_wpgd, teacher_wpgd = (
        _windows(maps, patch).view(len(valid_wp), patch**2, groups, channels // groups)
        for maps in (student_pooled, teacher_pooled)
    )
    distance = torch.cdist(student_wpgd.flatten(1, 2), teacher_wpgd.flatten(1, 2), p=1.0)
    similar_wpgqk = -distance.view(len(valid_wp), patch**2, groups, patch**2, groups) / temperature
    positive_wpg = -(student_wpgd - teacher_wpgd).abs().sum(3) / temperature
    other_group = ~torch.eye(groups, dtype=torch.bool, device=valid_wp.device)
    negative = valid_wp[:, None, None, :, None] & other_group[:, None, :]
    negatives_wpgn = torch.where(negative, similar_wpgqk, lowest(similar_wpgqk)).flatten(3)
    all_wpgn = torch.cat([positive_wpg[..., None], negatives_wpgn], dim=3)
    contrast_wp = (all_wpgn.logsumexp(3) - positive_wpg).sum(2)
    return mean_over_valid(contrast_wp, valid_wp)


def _check_groups(groups: int, channels: int) -> None:
    if channels % groups:
        fitting = [count for count in range(1, min(channels, 64) + 1) if channels % count == 0]
        raise UsageError(
            f"groups is {groups}, must divide the teacher's {channels} channels at the tap; "
            f"set it to one of {', '.join(map(str, fitting))}"
        )


class AfDCDConfig(WithKDConfig):
    """Settings of Af-DCD."""

    af_dcd_weight: float = Field(0.005, ge=0, le=1e2, description="weight λ of the contrastive term")
    mgd_weight: float = Field(2e-6, ge=0, le=1e2, description="weight of the masked feature term, a sum")
    groups: int = Field(16, ge=2, le=1024, description="groups of channels, must divide the teacher's")
    patch: int = Field(4, ge=1, le=64, description="side of a window, in pooled positions")
    pool: int = Field(4, ge=1, le=64, description="kernel and stride of the max-pooling")
    temperature: float = Field(0.07, gt=0, le=100, description="temperature τ of the contrast")
    masked_share: float = Field(0.75, ge=0, lt=1, description="share of positions masked")
    tap: Tap = Field("stage4", description="which features are compared")


@register
class AfDCD(WithKD):
    """Terms `af_dcd`: `omni_contrast` of the restored features, and `mgd`: `masked_generation` of them; additional
    term `kd`.
    """

    Config: ClassVar[type[MethodConfig]] = AfDCDConfig
    config: AfDCDConfig
    result_version: ClassVar[int] = 2  # 2: with logits distillation
    picture_terms: ClassVar[frozenset[str]] = frozenset({"mgd"})
    card: ClassVar[Card] = Card(
        name="af_dcd",
        title="Augmentation-free Dense Contrastive Knowledge Distillation for Efficient "
        "Semantic Segmentation",
        authors="Fan, Li, Liu, Yao",
        venue="NeurIPS",
        year=2023,
        url="https://arxiv.org/abs/2312.04168",
        family="features",
        needs=("teacher", "labels", "logits", "stages", "fused"),
        differs="With per-pixel logits distillation, as in the authors' training code. Windows at the border are padded with "
        "positions that do not count. Ignored pixels are left out.",
    )

    def __init__(
        self, config: AfDCDConfig, student: ModelInfo, teacher: ModelInfo | None, num_classes: int
    ) -> None:
        super().__init__(config, student, teacher, num_classes)
        if self.is_active("af_dcd"):
            _check_groups(config.groups, tap_channels(self.teacher_info, config.tap))
        if self.is_active("af_dcd") or self.is_active("mgd"):
            self.generator = MaskedGenerator(student, self.teacher_info, config.tap, config.masked_share)

    @property
    def needs(self) -> frozenset[MapName]:
        """See `Method.needs`."""
        features = tap_map(self.teacher_info, self.config.tap)
        return self.maps_of_terms(af_dcd=features, mgd=features, kd="logits")

    @property
    def weights(self) -> dict[str, float]:
        """`af_dcd`: λ of the contrast; `mgd`: of the masked feature term; `kd`: of the additional logits distillation."""
        config = self.config
        return {"af_dcd": config.af_dcd_weight, "mgd": config.mgd_weight, "kd": config.kd_weight}

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Terms `af_dcd`, `mgd` and `kd`."""
        config, teacher_output = self.config, self.require_teacher(teacher)
        terms = self.logits_terms(student, teacher_output, labels)
        if not (self.is_active("af_dcd") or self.is_active("mgd")):
            return terms
        student_maps = tap_features(student, self.student_info, config.tap)
        teacher_maps = tap_features(teacher_output, self.teacher_info, config.tap)
        valid = valid_pixels(labels, grid(student_maps))
        restored = self.generator(keep_valid(student_maps, valid))
        if self.is_active("af_dcd"):
            terms["af_dcd"] = omni_contrast(
                restored, teacher_maps, config.groups, config.patch, config.pool, config.temperature, valid
            )
        if self.is_active("mgd"):
            terms["mgd"] = masked_generation(restored, teacher_maps, valid)
        return terms
