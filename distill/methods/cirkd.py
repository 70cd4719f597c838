"""CIRKD: matches similarities between pixels of different images, and between pixels and a memory queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from distill.methods.config import MethodConfig
from distill.methods.kd import WithKD, WithKDConfig
from distill.methods.pixels import (
    at_least_float32,
    grid,
    in_float32,
    keep_valid,
    lowest,
    one_hot,
    product,
    product_type,
    resize,
    resize_labels,
    valid_on,
    valid_pixels,
)
from distill.methods.registry import Card, register
from distill.methods.relations import mean_pool_valid, sum_over_row_blocks, unit_channels
from distill.methods.taps import Tap, for_layer, tap_channels, tap_features, tap_map, tap_stride

if TYPE_CHECKING:
    from distill.models.output import MapName, ModelInfo, Output


POOLED_STRIDE = 16
"""Stride, in image pixels, of the grid on which pixels of different images are compared by default."""


def _pixels(features_bchw: Tensor) -> Tensor:
    """Features of length 1, `B×N×C`."""
    return unit_channels(features_bchw).flatten(2).transpose(1, 2)


@in_float32
def _relation_kl(
    student_rows: Tensor,
    teacher_rows: Tensor,
    student_columns: Tensor,
    teacher_columns: Tensor,
    temperature: float,
    valid_rows: Tensor,
    valid_columns: Tensor,
    products: torch.dtype | None,
) -> Tensor:
    """Mean over valid rows and groups of KL(softmax(S_t/τ) ‖ softmax(S_s/τ)), softmax over a group's columns.

    Rows are `R×C`, columns `G×M×C`, features of length 1; masks `R` and `G×M`.
    """
    groups, columns = valid_columns.shape
    fill = lowest(student_rows)

    def log_similarity(rows: Tensor, column_features: Tensor) -> Tensor:
        similarity = product(rows, column_features.flatten(0, 1).T, products) / temperature
        return F.log_softmax(torch.where(valid_columns, similarity.view(-1, groups, columns), fill), dim=2)

    def divergence(rows: slice) -> Tensor:
        log_student = log_similarity(student_rows[rows], student_columns)
        log_teacher = log_similarity(teacher_rows[rows], teacher_columns)
        divergence_rg = (log_teacher.exp() * (log_teacher - log_student)).sum(2)
        return torch.where(valid_rows[rows, None], divergence_rg, 0.0).sum()

    total = sum_over_row_blocks(divergence, len(student_rows), groups * columns)
    # A group without valid columns is uniform on both sides and adds nothing.
    return total / (valid_rows.sum() * valid_columns.any(1).sum()).clamp(min=1)


@in_float32
def cross_image_relation(
    student_features: Tensor,
    teacher_features: Tensor,
    temperature: float = 0.1,
    valid: Tensor | None = None,
    products: torch.dtype | None = None,
) -> Tensor:
    """Mean over ordered pairs of images of KL between rows of F_i·F_jᵀ, teacher against student (Yang 2022).

    F are pixels of length 1 over channels; a row is one pixel of image i against all pixels of image j,
    through a softmax with temperature τ. Rows are processed in blocks, so memory grows linearly with the number of pixels.

    Args:
        student_features: `B×C_s×h×w`; the loss is computed on its grid.
        teacher_features: `B×C_t×h'×w'`, resized bilinearly; channels may differ.
        temperature: τ, above 0.
        valid: `B×h×w` bool, valid pixels, as rows and as columns; None means all.
        products: type of the inputs of the matrix products; None leaves it.

    Returns:
        A 0-dim float32 tensor with a gradient to the student only.
    """
    valid_bhw = valid_on(valid, student_features)
    teacher_bchw = keep_valid(resize(teacher_features.detach(), grid(student_features)), valid_bhw)
    student_bnc, teacher_bnc = _pixels(keep_valid(student_features, valid_bhw)), _pixels(teacher_bchw)
    return _relation_kl(
        student_bnc.flatten(0, 1),
        teacher_bnc.flatten(0, 1),
        student_bnc,
        teacher_bnc,
        temperature,
        valid_bhw.flatten(),
        valid_bhw.flatten(1),
        products,
    )


class ClassQueue(nn.Module):
    """A first-in, first-out queue of features for each class.

    Args:
        num_classes: K.
        size: entries per class.
        channels: channels of an entry.
    """

    entries: Tensor
    filled: Tensor
    position: Tensor

    def __init__(self, num_classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.size = size
        # The extra slot is never read. Entries that are not chosen are written to it, which avoids a device synchronisation.
        self.register_buffer("entries", torch.zeros(num_classes, size + 1, channels))
        self.register_buffer("filled", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("position", torch.zeros(num_classes, dtype=torch.int64))

    def push(self, features_kmc: Tensor, chosen_km: Tensor) -> None:
        """Append the chosen of `K×M×C` features, at most `size` per class; `chosen_km` is bool `K×M`."""
        order = chosen_km.cumsum(1) - 1
        chosen_km = chosen_km & (order < self.size)
        slots = torch.where(chosen_km, (self.position[:, None] + order) % self.size, self.size)
        self.entries.scatter_(
            1, slots[..., None].expand_as(features_kmc), features_kmc.to(self.entries.dtype)
        )
        self.entries[:, self.size] = 0
        entered = chosen_km.sum(1)
        self.position.add_(entered).remainder_(self.size)
        self.filled.add_(entered).clamp_(max=self.size)

    def draw(self, per_class: int) -> tuple[Tensor, Tensor]:
        """Random entries of every class `1×M×C` and a mask `1×M` of those that exist; M = K·per_class."""
        shape = (len(self.filled), per_class)
        chance = torch.rand(shape, device=self.entries.device)
        slots = (chance * self.filled[:, None]).long().clamp(max=self.size - 1)
        drawn = self.entries.gather(1, slots[..., None].expand(*shape, self.entries.shape[2]))
        exists = (self.filled > 0)[:, None].expand(shape)
        return drawn.flatten(0, 1)[None], exists.flatten()[None]


def sample_pixels(features_bnc: Tensor, is_class_bkn: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` random pixels of each class and image `K×(B·count)×C`, and a mask of those that exist."""
    batch, classes, positions = is_class_bkn.shape
    chance = torch.rand(is_class_bkn.shape, device=features_bnc.device)
    best = torch.where(is_class_bkn, chance, -1.0).topk(min(count, positions), dim=2)
    index = best.indices.flatten(1)[..., None].expand(-1, -1, features_bnc.shape[2])
    drawn = features_bnc.gather(1, index).view(batch, classes, -1, features_bnc.shape[2])
    exists = best.values >= 0
    return drawn.transpose(0, 1).flatten(1, 2), exists.transpose(0, 1).flatten(1, 2)


def region_means(features_bnc: Tensor, is_class_bkn: Tensor) -> tuple[Tensor, Tensor]:
    """Mean direction of each class in each image, `K×B×C` of length 1, and a mask of those that exist."""
    weight = is_class_bkn.to(features_bnc.dtype)
    means = unit_channels(weight @ features_bnc, 2)
    return means.transpose(0, 1), is_class_bkn.any(2).T


class CIRKDConfig(WithKDConfig):
    """Settings of CIRKD. The memory terms are options: their authors' weights are 0.1, on Pascal VOC 0.01."""

    cirkd_weight: float = Field(1.0, ge=0, le=1e4, description="weight λ of the cross-image term")
    pixel_weight: float = Field(0.0, ge=0, le=1e4, description="weight of the pixel memory term, 0.1 in use")
    region_weight: float = Field(
        0.0, ge=0, le=1e4, description="weight of the region memory term, 0.1 in use"
    )
    temperature: float = Field(0.1, gt=0, le=100, description="temperature τ of all similarities")
    pool: int | None = Field(
        None,
        ge=1,
        le=64,
        description="kernel and stride of a mean pooling before the cross-image term, whose time falls with its 4th "
        "power; left out: to stride 16, which at stride 8 is the 2×2 pooling that the authors' code has as an option",
    )
    tap: Tap = Field("fused", description="which features are compared")
    pixel_queue: int = Field(20_000, ge=1, le=10**7, description="pixels remembered per class")
    region_queue: int = Field(2_000, ge=1, le=10**7, description="regions remembered per class")
    pixel_draws: int = Field(4_096, ge=1, le=10**6, description="remembered pixels each pixel is compared to")
    region_draws: int = Field(
        1_024, ge=1, le=10**6, description="remembered regions each pixel is compared to"
    )
    pixels_per_class: int = Field(16, ge=1, le=10**4, description="pixels remembered per class and image")


@register
class CIRKD(WithKD):
    """Terms `cirkd` within the batch, `pixel` and `region` against queues of teacher features, and `kd`."""

    Config: ClassVar[type[MethodConfig]] = CIRKDConfig
    config: CIRKDConfig
    result_version: ClassVar[int] = 2  # 2: mean pooling to stride 16 by default
    card: ClassVar[Card] = Card(
        name="cirkd",
        title="Cross-Image Relational Knowledge Distillation for Semantic Segmentation",
        authors="Yang, Zhou, An, Jiang, Xu, Zhang",
        venue="CVPR",
        year=2022,
        url="https://arxiv.org/abs/2204.06986",
        family="relations",
        needs=("teacher", "labels", "logits", "stages", "fused"),
        differs="The memory terms are off by default, each worker keeps its own memory, and a class's memory holds that "
        "class only. The cross-image term compares pixels pooled to stride 16. Ignored pixels are left out.",
    )

    def __init__(
        self, config: CIRKDConfig, student: ModelInfo, teacher: ModelInfo | None, num_classes: int
    ) -> None:
        super().__init__(config, student, teacher, num_classes)
        channels = tap_channels(self.teacher_info, config.tap)
        if self.is_active("pixel") or self.is_active("region"):
            self.projector = nn.Sequential(
                nn.Conv2d(tap_channels(student, config.tap), channels, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 1, bias=False),
            )
        if self.is_active("pixel"):
            self.pixels = ClassQueue(num_classes, config.pixel_queue, channels)
        if self.is_active("region"):
            self.regions = ClassQueue(num_classes, config.region_queue, channels)

    @property
    def needs(self) -> frozenset[MapName]:
        """See `Method.needs`."""
        features = tap_map(self.teacher_info, self.config.tap)
        return self.maps_of_terms(cirkd=features, pixel=features, region=features, kd="logits")

    @property
    def weights(self) -> dict[str, float]:
        """`cirkd`: λ; `pixel` and `region`: weights of the memory terms; `kd`: weight of the logits distillation."""
        config = self.config
        return {
            "cirkd": config.cirkd_weight,
            "pixel": config.pixel_weight,
            "region": config.region_weight,
            "kd": config.kd_weight,
        }

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Terms `cirkd`, `pixel`, `region`, `kd`; in training mode teacher features are added to the queues."""
        teacher_output = self.require_teacher(teacher)
        terms = self.logits_terms(student, teacher_output, labels)
        student_maps = tap_features(student, self.student_info, self.config.tap)
        teacher_maps = tap_features(teacher_output, self.teacher_info, self.config.tap).detach()
        labels = resize_labels(labels, grid(student_maps))
        valid = valid_pixels(labels)
        student_maps, teacher_maps = (
            keep_valid(student_maps, valid),
            keep_valid(resize(at_least_float32(teacher_maps), grid(student_maps)), valid),
        )
        if self.is_active("cirkd"):
            pooled, pooled_valid = mean_pool_valid(at_least_float32(student_maps), valid, self._pool)
            teacher_pooled, _ = mean_pool_valid(teacher_maps, valid, self._pool)
            terms["cirkd"] = cross_image_relation(
                pooled, teacher_pooled, self.config.temperature, pooled_valid, product_type(student_maps)
            )
        if self.is_active("pixel") or self.is_active("region"):
            terms.update(self._memory_terms(student_maps, teacher_maps, labels))
        return terms

    @property
    def _pool(self) -> int:
        """Kernel of the pooling before the cross-image term."""
        stride = tap_stride(self.student_info, self.config.tap)
        return self.config.pool or max(1, POOLED_STRIDE // stride)

    def _memory_terms(self, student_maps: Tensor, teacher_maps: Tensor, labels: Tensor) -> dict[str, Tensor]:
        config = self.config
        rows = _pixels(at_least_float32(self.projector(for_layer(student_maps, self.projector)))).flatten(
            0, 1
        )
        teacher_bnc = _pixels(teacher_maps)
        is_class = one_hot(labels, self.num_classes).flatten(2)
        terms = {}
        for name, draws in (("pixel", config.pixel_draws), ("region", config.region_draws)):
            if not self.is_active(name):
                continue
            queue = self.pixels if name == "pixel" else self.regions
            columns, exists = queue.draw(draws // self.num_classes + 1)
            terms[name] = _relation_kl(
                rows,
                teacher_bnc.flatten(0, 1),
                columns,
                columns,
                config.temperature,
                valid_pixels(labels).flatten(),
                exists,
                product_type(student_maps),
            )
            if self.training:
                if name == "pixel":
                    queue.push(*sample_pixels(teacher_bnc, is_class, config.pixels_per_class))
                else:
                    queue.push(*region_means(teacher_bnc, is_class))
        return terms
