"""BPKD: separate terms for the edges between classes and for the pixels inside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from distill.data.sample import IGNORE_INDEX
from distill.methods.config import MethodConfig
from distill.methods.cwd import channel_kl
from distill.methods.kd import pixel_kl
from distill.methods.pixels import valid_pixels
from distill.methods.registry import Card, Method, register

if TYPE_CHECKING:
    from distill.models.output import MapName, Output


def class_edges(labels: Tensor, kernel: int = 7) -> Tensor:
    """Where dilation minus erosion of the one-hot labels is not 0, `B×H×W` bool.

    That is where a `kernel×kernel` window contains two classes. Ignored pixels belong to no class and to no edge.

    Args:
        labels: `B×H×W` int64, 255 ignored.
        kernel: side of the window, odd.
    """
    valid_bhw = valid_pixels(labels)
    padding = kernel // 2
    # One pooling finds the largest label and minus the smallest one; the window is separable.
    signed = torch.stack(
        (labels.masked_fill(~valid_bhw, -1), -labels.masked_fill(~valid_bhw, IGNORE_INDEX + 1)), dim=1
    ).float()
    tall = F.max_pool2d(signed, (kernel, 1), 1, (padding, 0))
    largest, minus_smallest = F.max_pool2d(tall, (1, kernel), 1, (0, padding)).unbind(1)
    return valid_bhw & (largest > -minus_smallest)


def boundary_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    kernel: int = 7,
    temperature: float = 1.0,
    edges: Tensor | None = None,
) -> Tensor:
    """`pixel_kl` on the edges between classes (Liu 2024).

    Args:
        student_logits: `B×K×h×w`; the loss is computed on its grid.
        teacher_logits: `B×K×h'×w'`, resized bilinearly.
        labels: `B×H×W` int64, 255 ignored. Edges are found on the labels' grid, so that their width is the same
            for all students, and resized to the student's grid by nearest neighbour.
        kernel: side of the window in which two classes make an edge, odd.
        temperature: T, above 0.
        edges: `class_edges(labels, kernel)` if already computed.

    Returns:
        A 0-dim float32 tensor with a gradient to the student only.
    """
    return pixel_kl(
        student_logits, teacher_logits, temperature, class_edges(labels, kernel) if edges is None else edges
    )


def body_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    kernel: int = 7,
    temperature: float = 1.0,
    edges: Tensor | None = None,
) -> Tensor:
    """`channel_kl` on the valid pixels outside the edges; arguments as for `boundary_kl`."""
    edges = class_edges(labels, kernel) if edges is None else edges
    return channel_kl(student_logits, teacher_logits, temperature, valid_pixels(labels) & ~edges)


class BPKDConfig(MethodConfig):
    """Settings of BPKD."""

    edge_weight: float = Field(50.0, ge=0, le=1e5, description="weight λ of the term on edges")
    body_weight: float = Field(20.0, ge=0, le=1e5, description="weight λ of the term on the rest")
    temperature: float = Field(1.0, gt=0, le=100, description="temperature T of both terms")
    kernel_radius: int = Field(
        3, ge=1, le=64, description="how many label pixels from another class an edge reaches: kernel 2r + 1"
    )


@register
class BPKD(Method):
    """Terms `edge`: `boundary_kl`, and `body`: `body_kl`."""

    Config: ClassVar[type[MethodConfig]] = BPKDConfig
    config: BPKDConfig
    picture_terms: ClassVar[frozenset[str]] = frozenset({"body"})
    card: ClassVar[Card] = Card(
        name="bpkd",
        title="BPKD: Boundary Privileged Knowledge Distillation for Semantic Segmentation",
        authors="Liu, Wang, Phan, Zhang, Ge, Liu",
        venue="WACV",
        year=2024,
        url="https://arxiv.org/abs/2306.08075",
        family="logits",
        needs=("teacher", "labels", "logits"),
        differs="Written from second-hand descriptions. One edge mask for all classes, found on the labels' grid.",
    )

    @property
    def needs(self) -> frozenset[MapName]:
        """See `Method.needs`."""
        return self.maps_of_terms(edge="logits", body="logits")

    @property
    def weights(self) -> dict[str, float]:
        """`edge` and `body`."""
        return {"edge": self.config.edge_weight, "body": self.config.body_weight}

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Terms `edge` and `body`."""
        teacher_logits, terms = self.require_teacher(teacher).logits, {}
        kernel, temperature = 2 * self.config.kernel_radius + 1, self.config.temperature
        edges = class_edges(labels, kernel)
        if self.is_active("edge"):
            terms["edge"] = boundary_kl(student.logits, teacher_logits, labels, kernel, temperature, edges)
        if self.is_active("body"):
            terms["body"] = body_kl(student.logits, teacher_logits, labels, kernel, temperature, edges)
        return terms
