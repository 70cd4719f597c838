"""HeteroAKD: projects features of any two architectures to class logits, mixed by their reliability.

Huang, Hu, Zhang, Chen, Gao, "Distilling Knowledge from Heterogeneous Architectures for Semantic
Segmentation", AAAI 2025, arXiv 2504.07691. The settings and the readings of the paper are in `distill/methods/readings.py`,
the parts of the formula in `distill/methods/knowledge.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.errors import UsageError
from distill.methods.config import MethodConfig
from distill.methods.fitnet import feature_mse
from distill.methods.kd import pixel_kl
from distill.methods.knowledge import (
    Discrepancy,
    KemAxis,
    class_uncertainty,
    divergence_weight,
    evaluate_knowledge,
    mix_by_label,
    mix_knowledge,
    weighted_divergence,
    weighted_soft_cross_entropy,
)
from distill.methods.pixels import (
    at_least_float32,
    cross_entropy,
    grid,
    in_float32,
    keep_valid,
    resize,
    resize_labels,
    soften,
    valid_pixels,
)
from distill.methods.projector import LogitsProjector, train_teacher_projector
from distill.methods.readings import HeteroAKDConfig, Per
from distill.methods.registry import Card, Method, register
from distill.methods.taps import tap_channels, tap_features, tap_map

if TYPE_CHECKING:
    from distill.data.sample import Role
    from distill.models.output import MapName, ModelInfo, Output


@in_float32
def hetero_akd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    *,
    mixing: bool = True,
    mixing_per: Per = "class",
    kem_axis: KemAxis = "class",
    scale_by_classes: bool = False,
    weight_per: Per = "class",
    discrepancy: Discrepancy = "cross_entropy",
) -> Tensor:
    """L_hakd of two projected logits (eq. 3 to 5). Z_hyb, S and W carry no gradient (two sources agree).

    Args:
        student_logits: Z_s, `B×K×h×w`; its grid is the working grid (one source).
        teacher_logits: Z_t, `B×K×h'×w'`, resized bilinearly to it (one source).
        labels: int64, `B×H×W`, 255 ignored, resized to it by nearest neighbour (one source).
        temperature: τ, above 0.
        mixing: False uses Z_t in place of Z_hyb (ablation: no KMM).
        mixing_per: `class`: shares from the uncertainty of each class (eq. 3). `pixel`: one pair of shares per pixel,
            the softmax of both log-probabilities of the label.
        kem_axis: axis of the softmax of W, or `divergence`: the KL of a pixel over its mean in the image; `none` is
            W = 1/K (ablation: no KEM).
        scale_by_classes: K·W in place of W.
        weight_per: `class` as in eq. 5; `pixel`: one weight Σ_c W_c·softmax(Z_hyb/τ)_c for all classes of
            a pixel, whose minimiser is the target itself and not W ⊙ target.
        discrepancy: `cross_entropy` as in eq. 5. `kl`: the KL of both softmaxes, and `bernoulli`: the sum over classes of
            the binary KL, both times τ².

    Returns:
        A 0-dim float32 tensor with a gradient to the student's logits only.
    """
    valid = valid_pixels(labels, grid(student_logits))
    student_bkhw = keep_valid(student_logits, valid)
    with torch.no_grad():
        teacher_bkhw = keep_valid(resize(teacher_logits, grid(student_logits)), valid)
        labels = resize_labels(labels, grid(student_logits))
        student_h = class_uncertainty(student_bkhw, labels)
        mixed = teacher_bkhw
        if mixing and mixing_per == "class":
            mixed = mix_knowledge(
                student_bkhw, teacher_bkhw, student_h, class_uncertainty(teacher_bkhw, labels)
            )
        elif mixing:
            mixed = mix_by_label(student_bkhw, teacher_bkhw, labels)
        if kem_axis == "divergence":
            weight = divergence_weight(student_bkhw, mixed, valid, temperature)
        else:
            weight = evaluate_knowledge(
                student_h, class_uncertainty(mixed, labels), valid, kem_axis, scale_by_classes
            )
        target = F.softmax(soften(mixed, temperature), dim=1)
        if weight_per == "pixel" and weight.shape[1] > 1:
            weight = (weight * target).sum(1, keepdim=True)
    if discrepancy == "cross_entropy":
        return weighted_soft_cross_entropy(student_bkhw, target, weight, valid, temperature)
    bernoulli = discrepancy == "bernoulli"
    return weighted_divergence(student_bkhw, mixed, weight, valid, temperature, bernoulli=bernoulli)


@register
class HeteroAKD(Method):
    """Terms `kd` (eq. 1), `hakd` (eq. 5), `l2` and `proj`, the cross-entropy of the projected logits.

    Eq. 6 does not train the teacher's projector, because its output has no gradient; `proj` does. The authors released no
    code: each option says whether two independent sources agree on it, one source states it, or it is our choice.
    """

    Config: ClassVar[type[MethodConfig]] = HeteroAKDConfig
    config: HeteroAKDConfig
    result_version: ClassVar[int] = 2  # 2: another reading by default
    changed_default: ClassVar[str | None] = "preset"
    card: ClassVar[Card] = Card(
        name="heteroakd",
        title="Distilling Knowledge from Heterogeneous Architectures for Semantic Segmentation",
        authors="Huang, Hu, Zhang, Chen, Gao",
        venue="AAAI",
        year=2025,
        url="https://arxiv.org/abs/2504.07691",
        family="heterogeneous",
        needs=("teacher", "labels", "logits", "stages", "fused"),
        differs="What is known of the paper contradicts itself, hence several readings; the default is the one that did best "
        "on photographs, `literal` follows the numbered equations. The projectors are supervised by the labels, which the "
        "paper does not state; without it nothing trains the teacher's. The projectors' BatchNorm sees ignored pixels too.",
    )

    def __init__(
        self, config: HeteroAKDConfig, student: ModelInfo, teacher: ModelInfo | None, num_classes: int
    ) -> None:
        super().__init__(config, student, teacher, num_classes)
        self._projector_loaded = False
        if self._distils or self.is_active("proj"):
            self.student_projector = self._projector(student)
        if not self._distils:
            return
        self.teacher_projector = self._projector(self.teacher_info)
        if config.teacher_projector == "pretrained":
            self.register_buffer(
                "teacher_projector_handed_in", torch.tensor(False)
            )  # name as in older checkpoints
        if not self._teacher_projector_learns:
            self.teacher_projector.requires_grad_(False)

    def _projector(self, info: ModelInfo) -> LogitsProjector:
        config = self.config
        channels = tap_channels(info, config.tap)
        return LogitsProjector(channels, self.num_classes, config.final_relu, norm=config.projector_norm)

    @property
    def _distils(self) -> bool:
        """Whether the projected logits of both are compared."""
        return self.is_active("hakd") or self.is_active("l2")

    @property
    def _teacher_projector_learns(self) -> bool:
        both = self.config.proj_supervision == "both" and self.config.proj_weight > 0
        return both and self.config.teacher_projector == "joint"

    @property
    def needs(self) -> frozenset[MapName]:
        """See `Method.needs`."""
        projected = tap_map(self.teacher_info, self.config.tap)
        return self.maps_of_terms(kd="logits", hakd=projected, l2=projected)

    @property
    def weights(self) -> dict[str, float]:
        """`kd`: λ1, `hakd`: λ2, `l2`: its weight, `proj`: its weight, 0 without supervision or nothing projected."""
        config = self.config
        compared = config.hakd_weight > 0 or config.l2_weight > 0
        supervised = (compared or config.keep_proj) and config.proj_supervision != "none"
        return {
            "kd": config.kd_weight,
            "hakd": config.hakd_weight,
            "l2": config.l2_weight,
            "proj": config.proj_weight if supervised else 0.0,
        }

    def train(self, mode: bool = True) -> HeteroAKD:
        """Set the mode as in torch; a pretrained teacher projector stays in evaluation mode."""
        super().train(mode)
        if self._distils and self.config.teacher_projector == "pretrained":
            self.teacher_projector.eval()
        return self

    @property
    def preparation(self) -> str | None:
        """Name of the teacher's projector if it is pretrained once for all students, else None."""
        config = self.config
        if config.teacher_projector == "joint" or not self._distils:
            return None
        return (
            f"heteroakd teacher projector, tap {config.tap}, final ReLU {config.final_relu}, "
            f"norm {config.projector_norm}, data of the {config.projector_data}"
        )

    @property
    def preparation_role(self) -> Role:
        """See `Method.preparation_role`."""
        return self.config.projector_data

    def prepare(self, batches: Iterable[tuple[Output, Tensor]]) -> dict[str, Tensor]:
        """Train the teacher's projector with `train_teacher_projector`; returns its state."""
        device = next(self.teacher_projector.parameters()).device
        projector = self._projector(self.teacher_info).to(device)
        info, tap = self.teacher_info, self.config.tap
        features = ((at_least_float32(tap_features(output, info, tap)), labels) for output, labels in batches)
        return train_teacher_projector(projector, features).state_dict()

    def use_prepared(self, state: Mapping[str, Tensor]) -> None:
        """Load the `state_dict` of a projector trained by `train_teacher_projector` and freeze it.

        Raises:
            UsageError: the method was not built with `teacher_projector='pretrained'`.
        """
        if self.config.teacher_projector != "pretrained" or not self._distils:
            raise UsageError(
                f"teacher_projector is '{self.config.teacher_projector}' and hakd_weight "
                f"{self.config.hakd_weight:g}, must be 'pretrained' and above 0 "
                "to load one; build the method so"
            )
        self.teacher_projector.load_state_dict(state)
        self.teacher_projector.eval()
        self.get_buffer("teacher_projector_handed_in").fill_(True)

    def _check_projector_loaded(self) -> None:
        if self._projector_loaded or self.config.teacher_projector == "joint":
            return
        # Read once, because reading the buffer synchronises with the device.
        self._projector_loaded = bool(self.get_buffer("teacher_projector_handed_in"))
        if not self._projector_loaded:
            raise UsageError(
                "teacher_projector is 'pretrained' but none was loaded; train one with "
                "train_teacher_projector and pass its state_dict to use_prepared, or set 'joint'"
            )

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Terms `kd`, `hakd`, `l2` and `proj`."""
        config, teacher_output = self.config, self.require_teacher(teacher)
        terms: dict[str, Tensor] = {}
        if self.is_active("kd"):
            valid = valid_pixels(labels, grid(student.logits))
            terms["kd"] = pixel_kl(student.logits, teacher_output.logits, config.temperature, valid)
        if not (self._distils or self.is_active("proj")):
            return terms
        features = tap_features(student, self.student_info, config.tap)
        student_z = self.student_projector(features)
        labels = resize_labels(labels, grid(student_z))
        teacher_z = self._projected_teacher(teacher_output, student_z) if self._distils else None
        if teacher_z is not None:
            terms |= self._distilled(student_z, teacher_z.detach(), labels)
        if self.is_active("proj"):
            detached = config.proj_gradient == "projector"
            supervised = self.student_projector(features.detach()) if detached else student_z
            terms["proj"] = cross_entropy(supervised, labels)
            if teacher_z is not None and self._teacher_projector_learns:
                terms["proj"] = terms["proj"] + cross_entropy(teacher_z, labels)
        return terms

    def _projected_teacher(self, teacher: Output, student_z: Tensor) -> Tensor:
        """Z_t on the student's grid."""
        self._check_projector_loaded()
        features = tap_features(teacher, self.teacher_info, self.config.tap).detach()
        return resize(at_least_float32(self.teacher_projector(features)), grid(student_z))

    def _distilled(self, student_z: Tensor, teacher_z: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Terms `hakd` and `l2`."""
        config, terms = self.config, {}
        if self.is_active("hakd"):
            terms["hakd"] = hetero_akd(
                student_z,
                teacher_z,
                labels,
                config.hakd_temperature,
                mixing=config.mixing,
                mixing_per=config.mixing_per,
                kem_axis=config.kem_axis,
                scale_by_classes=config.scale_by_classes,
                weight_per=config.weight_per,
                discrepancy=config.discrepancy,
            )
        if self.is_active("l2"):
            terms["l2"] = feature_mse(student_z, teacher_z, valid_pixels(labels))
        return terms
