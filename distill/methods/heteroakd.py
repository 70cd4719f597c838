"""HeteroAKD: projects features of any two architectures to class logits, mixed by their reliability.

Huang, Hu, Zhang, Chen, Gao, "Distilling Knowledge from Heterogeneous Architectures for Semantic
Segmentation", AAAI 2025, arXiv 2504.07691. The authors released no code. Each option states the evidence
for its default: two independent sources agree, one source states it, or it is our choice because none does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from distill.data.sample import IGNORE_INDEX
from distill.errors import UsageError
from distill.methods.config import MethodConfig
from distill.methods.kd import pixel_kl
from distill.methods.pixels import (
    at_least_float32,
    cross_entropy,
    grid,
    in_float32,
    keep_valid,
    lowest,
    mean_over_valid,
    resize,
    resize_labels,
    soften,
    valid_pixels,
)
from distill.methods.projector import LogitsProjector, train_teacher_projector
from distill.methods.registry import Card, Method, register
from distill.methods.taps import Tap, tap_channels, tap_features, tap_map

if TYPE_CHECKING:
    from distill.models.output import MapName, ModelInfo, Output

KemAxis = Literal["class", "space", "none"]
WeightPer = Literal["class", "pixel"]

_PRESETS: dict[str, dict[str, object]] = {
    "paper": {"final_relu": True, "scale_by_classes": False, "weight_per": "class"},
    "stable": {"final_relu": False, "scale_by_classes": True, "weight_per": "pixel"},
}


def _by_preset(setting: str) -> dict[str, Any]:
    """Extra of a setting's schema: its default for each preset."""
    return {"default_by": {"preset": {name: values[setting] for name, values in _PRESETS.items()}}}


def class_uncertainty(logits: Tensor, labels: Tensor) -> Tensor:
    """H(Z): binary cross-entropy of every class against the label, per pixel and class (part of eq. 3).

    Args:
        logits: Z, `B×K×h×w`.
        labels: `B×h×w` int64; values at ignored pixels are meaningless.
    """
    # −log sg(Z) = softplus(−Z) and −log(1 − sg(Z)) = softplus(Z) neither overflow nor lose precision.
    own_class = torch.where(labels == IGNORE_INDEX, 0, labels)[:, None]
    return F.softplus(logits).scatter_(1, own_class, F.softplus(-logits.gather(1, own_class)))


def mix_knowledge(
    student_logits: Tensor, teacher_logits: Tensor, student_h: Tensor, teacher_h: Tensor
) -> Tensor:
    """Z_hyb = S_t⊙Z_t + (1 − S_t)⊙Z_s with S_t = H_s/(H_t + H_s) (KMM, eq. 3).

    All are `B×K×h×w`. Where both are 0 in float precision (H_s = H_t = 0), S_t is ½.
    """
    share = (student_h / (student_h + teacher_h)).nan_to_num_(nan=0.5)
    return torch.lerp(student_logits, teacher_logits, share)


def evaluate_knowledge(
    student_h: Tensor, mixed_h: Tensor, valid: Tensor, axis: KemAxis = "class", scale_by_classes: bool = False
) -> Tensor:
    """W = softmax(H_s + max(0, H_s − H_hyb)) (KEM, eq. 4).

    The weight is largest where the student's error is large and the mixture reduces it.

    Args:
        student_h: H(Z_s), `B×K×h×w`.
        mixed_h: H(Z_hyb), `B×K×h×w`.
        valid: `B×h×w` bool.
        axis: axis of the softmax. `class`: weights of a pixel sum to 1. `space`: weights of a class in an image
            average to 1 over its valid pixels (a softmax over them, times their number). `none`: 1/K
            everywhere.
        scale_by_classes: K·W for `class` and `none`, so that a uniform W has weight 1, as it has for `space`.

    Returns:
        W, `B×K×h×w`.
    """
    num_classes = student_h.shape[1]
    scale = float(num_classes) if scale_by_classes else 1.0
    if axis == "none":
        return torch.full_like(student_h, scale / num_classes)
    need = (student_h - mixed_h).clamp_(min=0).add_(student_h)
    if axis == "class":
        weight = F.softmax(need, dim=1)
        return weight.mul_(scale) if scale_by_classes else weight
    inside = keep_valid(need, valid, lowest(need)).flatten(2)
    count = valid.sum((1, 2))[:, None, None, None]
    return F.softmax(inside, dim=2).view_as(need) * count


@in_float32
def weighted_soft_cross_entropy(
    student_logits: Tensor, target: Tensor, weight: Tensor, valid: Tensor, temperature: float = 1.0
) -> Tensor:
    """−(1/|Ω|) Σ_i Σ_c W_ci · p_ci · log softmax(Z_s,i/τ)_c (eq. 5); no τ² here (one source).

    Args:
        student_logits: Z_s, `B×K×h×w`, finite.
        target: p, `B×K×h×w`, sums to 1 over classes.
        weight: W, `B×K×h×w` or `B×1×h×w`.
        valid: Ω, `B×h×w` bool.
        temperature: τ.
    """
    log_student = F.log_softmax(soften(student_logits, temperature), dim=1)
    if weight.shape[1] == 1:
        return -mean_over_valid(weight[:, 0] * (target * log_student).sum(1), valid)
    return -mean_over_valid((weight * target * log_student).sum(1), valid)


@in_float32
def hetero_akd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    *,
    mixing: bool = True,
    kem_axis: KemAxis = "class",
    scale_by_classes: bool = False,
    weight_per: WeightPer = "class",
) -> Tensor:
    """L_hakd of two projected logits (eq. 3 to 5). Z_hyb, S and W carry no gradient (two sources agree).

    Args:
        student_logits: Z_s, `B×K×h×w`; its grid is the working grid (one source).
        teacher_logits: Z_t, `B×K×h'×w'`, resized bilinearly to it (one source).
        labels: int64, `B×H×W`, 255 ignored, resized to it by nearest neighbour (one source).
        temperature: τ, above 0.
        mixing: False uses Z_t in place of Z_hyb (ablation: no KMM).
        kem_axis: axis of the softmax of W; `none` is W = 1/K (ablation: no KEM).
        scale_by_classes: K·W in place of W.
        weight_per: `class` as in eq. 5; `pixel`: one weight Σ_c W_c·softmax(Z_hyb/τ)_c for all classes of
            a pixel, whose minimiser is the target itself and not W ⊙ target.

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
        if mixing:
            mixed = mix_knowledge(
                student_bkhw, teacher_bkhw, student_h, class_uncertainty(teacher_bkhw, labels)
            )
        weight = evaluate_knowledge(
            student_h, class_uncertainty(mixed, labels), valid, kem_axis, scale_by_classes
        )
        target = F.softmax(soften(mixed, temperature), dim=1)
        if weight_per == "pixel":
            weight = (weight * target).sum(1, keepdim=True)
    return weighted_soft_cross_entropy(student_bkhw, target, weight, valid, temperature)


class HeteroAKDConfig(MethodConfig):
    """Settings of HeteroAKD. A preset fills the settings that are not given.

    Ablations: `mixing: false` (no KMM), `kem_axis: none` (no KEM), both of them (projection only),
    `hakd_weight: 0` (logits distillation), `hakd_weight: 0` and `kd_weight: 0` (student alone).
    """

    preset: Literal["paper", "stable"] = Field(
        "paper",
        description="paper: eq. 1 to 6 as printed. stable (our choice): final_relu false, "
        "scale_by_classes true, weight_per pixel. Explicit settings override the preset",
    )
    kd_weight: float = Field(
        0.1, ge=0, le=1e4, description="λ1, weight of the logits distillation (one source)"
    )
    hakd_weight: float = Field(
        1.0, ge=0, le=1e4, description="λ2, weight of the heterogeneous term (one source: 1 or 10 by pair)"
    )
    proj_weight: float = Field(
        1.0, ge=0, le=1e4, description="weight of the projectors' cross-entropy (our choice)"
    )
    temperature: float = Field(
        1.0, gt=0, le=100, description="τ of both distillation terms (1 is our choice)"
    )
    tap: Tap = Field(
        "stage4",
        description="which features are projected: the last stage (one source), another stage, the "
        "stage of stride 8, or what the classifier sees",
    )
    final_relu: bool = Field(
        True,
        description="ReLU at the end of the projectors (two sources agree)",
        json_schema_extra=_by_preset("final_relu"),
    )
    mixing: bool = Field(
        True,
        description="mix both logits by their reliability, KMM (two sources agree); false: the teacher's",
    )
    kem_axis: KemAxis = Field(
        "class",
        description="axis of the softmax of W: class (one source), space (one source; the weights "
        "average to 1 over an image's valid pixels, our choice), none: 1/K. A good "
        "hakd_weight does not carry over between axes",
    )
    scale_by_classes: bool = Field(
        False,
        description="K·W in place of W, so that a uniform W is plain cross-entropy (our choice)",
        json_schema_extra=_by_preset("scale_by_classes"),
    )
    weight_per: WeightPer = Field(
        "class",
        description="a weight per class of a pixel (one source), or one per pixel, which does not "
        "bias the minimiser towards the classes the student is worst at (our choice)",
        json_schema_extra=_by_preset("weight_per"),
    )
    proj_supervision: Literal["both", "student", "none"] = Field(
        "both", description="whose projected logits get cross-entropy to the labels (our choice)"
    )
    teacher_projector: Literal["joint", "pretrained"] = Field(
        "joint",
        description="train the teacher's projector with the student, or use one that is "
        "trained once per teacher (our choice)",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        preset = values.get("preset", "paper") if isinstance(values, Mapping) else None
        return {**_PRESETS[preset], **values} if preset in _PRESETS else values


@register
class HeteroAKD(Method):
    """Terms `kd` (eq. 1), `hakd` (eq. 5) and `proj`, the cross-entropy of the projected logits.

    Eq. 6 does not train the teacher's projector, because its output has no gradient; `proj` does. The authors released no
    code: each option says whether two independent sources agree on it, one source states it, or it is our choice.
    """

    Config: ClassVar[type[MethodConfig]] = HeteroAKDConfig
    config: HeteroAKDConfig
    card: ClassVar[Card] = Card(
        name="heteroakd",
        title="Distilling Knowledge from Heterogeneous Architectures for Semantic Segmentation",
        authors="Huang, Hu, Zhang, Chen, Gao",
        venue="AAAI",
        year=2025,
        url="https://arxiv.org/abs/2504.07691",
        family="heterogeneous",
        needs=("teacher", "labels", "logits", "stages", "fused"),
        differs="The projectors are supervised by the labels, which the paper does not state; without it "
        "nothing trains the teacher's. The projectors' BatchNorm sees ignored pixels too.",
    )

    def __init__(
        self, config: HeteroAKDConfig, student: ModelInfo, teacher: ModelInfo | None, num_classes: int
    ) -> None:
        super().__init__(config, student, teacher, num_classes)
        self._projector_loaded = False
        if not self.is_active("hakd"):
            return
        self.student_projector = LogitsProjector(
            tap_channels(student, config.tap), num_classes, config.final_relu
        )
        self.teacher_projector = LogitsProjector(
            tap_channels(self.teacher_info, config.tap), num_classes, config.final_relu
        )
        if config.teacher_projector == "pretrained":
            self.register_buffer(
                "teacher_projector_handed_in", torch.tensor(False)
            )  # name as in older checkpoints
        if not self._teacher_projector_learns:
            self.teacher_projector.requires_grad_(False)

    @property
    def _teacher_projector_learns(self) -> bool:
        both = self.config.proj_supervision == "both" and self.config.proj_weight > 0
        return both and self.config.teacher_projector == "joint"

    @property
    def needs(self) -> frozenset[MapName]:
        """See `Method.needs`."""
        return self.maps_of_terms(kd="logits", hakd=tap_map(self.teacher_info, self.config.tap))

    @property
    def weights(self) -> dict[str, float]:
        """`kd`: λ1, `hakd`: λ2, `proj`: its weight, 0 without projection or supervision."""
        config = self.config
        supervised = config.hakd_weight > 0 and config.proj_supervision != "none"
        return {
            "kd": config.kd_weight,
            "hakd": config.hakd_weight,
            "proj": config.proj_weight if supervised else 0.0,
        }

    def train(self, mode: bool = True) -> HeteroAKD:
        """Set the mode as in torch; a pretrained teacher projector stays in evaluation mode."""
        super().train(mode)
        if self.is_active("hakd") and self.config.teacher_projector == "pretrained":
            self.teacher_projector.eval()
        return self

    @property
    def preparation(self) -> str | None:
        """Name of the teacher's projector if it is pretrained once for all students, else None."""
        config = self.config
        if config.teacher_projector == "joint" or not self.is_active("hakd"):
            return None
        return f"heteroakd teacher projector, tap {config.tap}, final ReLU {config.final_relu}"

    def prepare(self, batches: Iterable[tuple[Output, Tensor]]) -> dict[str, Tensor]:
        """Train the teacher's projector with `train_teacher_projector`; returns its state."""
        device = next(self.teacher_projector.parameters()).device
        channels = tap_channels(self.teacher_info, self.config.tap)
        projector = LogitsProjector(channels, self.num_classes, self.config.final_relu).to(device)
        info, tap = self.teacher_info, self.config.tap
        features = ((at_least_float32(tap_features(output, info, tap)), labels) for output, labels in batches)
        return train_teacher_projector(projector, features).state_dict()

    def use_prepared(self, state: Mapping[str, Tensor]) -> None:
        """Load the `state_dict` of a projector trained by `train_teacher_projector` and freeze it.

        Raises:
            UsageError: the method was not built with `teacher_projector='pretrained'`.
        """
        if self.config.teacher_projector != "pretrained" or not self.is_active("hakd"):
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
        """Terms `kd`, `hakd` and `proj`."""
        config, teacher_output = self.config, self.require_teacher(teacher)
        terms: dict[str, Tensor] = {}
        if self.is_active("kd"):
            valid = valid_pixels(labels, grid(student.logits))
            terms["kd"] = pixel_kl(student.logits, teacher_output.logits, config.temperature, valid)
        if not self.is_active("hakd"):
            return terms
        self._check_projector_loaded()
        student_z = self.student_projector(tap_features(student, self.student_info, config.tap))
        teacher_z = self.teacher_projector(
            tap_features(teacher_output, self.teacher_info, config.tap).detach()
        )
        teacher_z = resize(at_least_float32(teacher_z), grid(student_z))
        labels = resize_labels(labels, grid(student_z))
        terms["hakd"] = hetero_akd(
            student_z,
            teacher_z.detach(),
            labels,
            config.temperature,
            mixing=config.mixing,
            kem_axis=config.kem_axis,
            scale_by_classes=config.scale_by_classes,
            weight_per=config.weight_per,
        )
        if self.is_active("proj"):
            terms["proj"] = cross_entropy(student_z, labels)
            if self._teacher_projector_learns:
                terms["proj"] = terms["proj"] + cross_entropy(teacher_z, labels)
        return terms
