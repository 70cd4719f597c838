"""IFVD: matches the similarity of each pixel's feature to the mean feature of its class."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from distill.methods.config import MethodConfig
from distill.methods.kd import WithKD, WithKDConfig
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
from distill.methods.registry import Card, register
from distill.methods.relations import unit_channels
from distill.methods.taps import Tap, tap_features, tap_map

if TYPE_CHECKING:
    from distill.models.output import MapName, Output


def _centre_similarity(features_bchw: Tensor, labels_bhw: Tensor, is_class_bkhw: Tensor) -> Tensor:
    """Cosine of each pixel's feature with the mean feature of its class in its image, `B×h×w`."""
    is_class_bkn = is_class_bkhw.flatten(2).to(features_bchw.dtype)
    features_bcn = features_bchw.flatten(2)
    centres_bkc = is_class_bkn @ features_bcn.transpose(1, 2)  # sums, since a cosine ignores lengths
    similar_bkn = unit_channels(centres_bkc, 2) @ unit_channels(features_bcn)
    own_class = labels_bhw.clamp(max=is_class_bkhw.shape[1] - 1).flatten(1)[:, None]
    return similar_bkn.gather(1, own_class).view_as(labels_bhw)


@in_float32
def intra_class_variation(
    student_features: Tensor, teacher_features: Tensor, labels: Tensor, num_classes: int
) -> Tensor:
    """Mean (m_s − m_t)², m the cosine of a feature with its class's centre (Wang 2020, eq. 1 and 2).

    A class's centre is the mean feature of its pixels in the image.

    Args:
        student_features: `B×C_s×h×w`; the loss is computed on its grid.
        teacher_features: `B×C_t×h'×w'`, resized bilinearly; channels may differ.
        labels: `B×H×W` int64, 255 ignored, resized to the grid by nearest neighbour.
        num_classes: K.

    Returns:
        A 0-dim float32 tensor with a gradient to the student only, a mean over valid pixels.
    """
    labels_bhw = resize_labels(labels, grid(student_features))
    valid_bhw = valid_pixels(labels_bhw)
    is_class = one_hot(labels_bhw, num_classes)
    with torch.no_grad():
        teacher_bchw = keep_valid(resize(teacher_features, grid(student_features)), valid_bhw)
        teacher_map = _centre_similarity(teacher_bchw, labels_bhw, is_class)
    student_map = _centre_similarity(keep_valid(student_features, valid_bhw), labels_bhw, is_class)
    return mean_over_valid((student_map - teacher_map).square(), valid_bhw)


class IFVDConfig(WithKDConfig):
    """Settings of IFVD."""

    ifvd_weight: float = Field(20.0, ge=0, le=1e6, description="weight λ of the intra-class variation term")
    tap: Tap = Field("fused", description="which features are compared")


@register
class IFVD(WithKD):
    """Term `ifvd`: `intra_class_variation` at a tap; additional term `kd`."""

    Config: ClassVar[type[MethodConfig]] = IFVDConfig
    config: IFVDConfig
    card: ClassVar[Card] = Card(
        name="ifvd",
        title="Intra-class Feature Variation Distillation for Semantic Segmentation",
        authors="Wang, Zhou, Jiang, Bai, Xu",
        venue="ECCV",
        year=2020,
        url="https://doi.org/10.1007/978-3-030-58571-6_21",
        family="relations",
        needs=("teacher", "labels", "logits", "stages", "fused"),
        differs="The adversarial term is left out. Ignored pixels are left out of the mean; "
        "the paper counts them as alike.",
    )

    @property
    def needs(self) -> frozenset[MapName]:
        """See `Method.needs`."""
        return self.maps_of_terms(ifvd=tap_map(self.teacher_info, self.config.tap), kd="logits")

    @property
    def weights(self) -> dict[str, float]:
        """`ifvd`: λ; `kd`: weight of the additional logits distillation."""
        return {"ifvd": self.config.ifvd_weight, "kd": self.config.kd_weight}

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Terms `ifvd` and `kd`."""
        teacher_output = self.require_teacher(teacher)
        terms = self.logits_terms(student, teacher_output, labels)
        if self.is_active("ifvd"):
            student_maps = tap_features(student, self.student_info, self.config.tap)
            teacher_maps = tap_features(teacher_output, self.teacher_info, self.config.tap)
            terms["ifvd"] = intra_class_variation(student_maps, teacher_maps, labels, self.num_classes)
        return terms
