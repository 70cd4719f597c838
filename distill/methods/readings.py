"""HeteroAKD's settings, and its readings: combinations of them.

The sources contradict each other, and the authors released no code. Each option states the evidence for its default: two
independent sources agree, one source states it, or it is our choice because none does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from distill.data.sample import Role
from distill.methods.config import MethodConfig
from distill.methods.knowledge import Discrepancy, KemAxis
from distill.methods.taps import Tap

Per = Literal["class", "pixel"]
Reading = Literal["literal", "paper", "pixel", "bernoulli", "summary", "stable"]

_LITERAL: dict[str, object] = {
    "final_relu": True,
    "projector_norm": True,
    "mixing_per": "class",
    "kem_axis": "class",
    "scale_by_classes": False,
    "weight_per": "class",
    "discrepancy": "cross_entropy",
    "l2_weight": 0.0,
}
_PER_PIXEL = {**_LITERAL, "final_relu": False, "scale_by_classes": True, "weight_per": "pixel"}
READINGS: dict[str, dict[str, object]] = {
    "literal": _LITERAL,
    "paper": _LITERAL,
    "pixel": {**_PER_PIXEL, "kem_axis": "pixel", "discrepancy": "kl"},
    "bernoulli": {**_LITERAL, "final_relu": False, "discrepancy": "bernoulli"},
    "summary": {
        **_PER_PIXEL,
        "projector_norm": False,
        "mixing_per": "pixel",
        "kem_axis": "divergence",
        "discrepancy": "kl",
        "l2_weight": 1.0,
    },
    "stable": _PER_PIXEL,
}
"""Settings of each reading of the method; `paper` is another name of `literal`."""

DEFAULT_READING: Reading = "pixel"
"""The best on photographs (`docs/benchmark/camvid`); `literal` was it up to version 0.1.0."""


def _by_preset(setting: str) -> dict[str, Any]:
    """Extra of a setting's schema: its default for each preset."""
    return {"default_by": {"preset": {name: values[setting] for name, values in READINGS.items()}}}


class HeteroAKDConfig(MethodConfig):
    """Settings of HeteroAKD. A preset fills the settings that are not given.

    Ablations: `mixing: false` (no KMM), `kem_axis: none` (no KEM), both of them (projection only),
    `hakd_weight: 0` and `keep_proj: true` (projection supervised alone), `hakd_weight: 0` (logits distillation),
    `hakd_weight: 0` and `kd_weight: 0` (student alone). With the preset `summary`, `l2_weight: 0` belongs to the last three.
    """

    preset: Reading = Field(
        DEFAULT_READING,
        description="reading of the method, a name for several settings; explicit settings override it. "
        "literal, or paper: eq. 1 to 6 as printed. All are explained below",
    )
    kd_weight: float = Field(
        0.1, ge=0, le=1e4, description="λ1, weight of the logits distillation (one source)"
    )
    hakd_weight: float = Field(
        1.0, ge=0, le=1e4, description="λ2, weight of the heterogeneous term (one source: 1 or 10 by pair)"
    )
    l2_weight: float = Field(
        0.0,
        ge=0,
        le=1e4,
        description="weight of the mean squared difference of the projected logits (a public summary of the paper)",
        json_schema_extra=_by_preset("l2_weight"),
    )
    proj_weight: float = Field(
        1.0, ge=0, le=1e4, description="weight of the projectors' cross-entropy (our choice)"
    )
    temperature: float = Field(
        1.0, gt=0, le=100, description="τ of `kd`, and of `hakd` unless it has its own (1 is our choice)"
    )
    hakd_temperature: float = Field(
        1.0,
        gt=0,
        le=100,
        description="τ of `hakd`; left out: the same as `temperature`",
        json_schema_extra={"default_from": "temperature"},
    )
    tap: Tap = Field(
        "stage4",
        description="which features are projected: the last stage (one source), another stage, the "
        "stage of stride 8, or what the classifier sees",
    )
    final_relu: bool = Field(
        False,
        description="ReLU at the end of the projectors (two sources agree on true)",
        json_schema_extra=_by_preset("final_relu"),
    )
    projector_norm: bool = Field(
        True,
        description="BatchNorm after the projectors' convolution (two sources agree); false: a bias instead",
        json_schema_extra=_by_preset("projector_norm"),
    )
    mixing: bool = Field(
        True,
        description="mix both logits by their reliability, KMM (two sources agree); false: the teacher's",
    )
    mixing_per: Per = Field(
        "class",
        description="reliability of each class (two sources agree), or of a pixel: the softmax of both "
        "log-probabilities of the label (a public summary of the paper)",
        json_schema_extra=_by_preset("mixing_per"),
    )
    kem_axis: KemAxis = Field(
        "pixel",
        description="axis of the softmax of W: class (one source), space (one source; the weights "
        "average to 1 over an image's valid pixels, our choice), pixel: as space, of the mean over classes (our choice); "
        "divergence: W is the KL of a pixel over its mean in the image (a public summary); none: 1/K. A good "
        "hakd_weight does not carry over between axes",
        json_schema_extra=_by_preset("kem_axis"),
    )
    scale_by_classes: bool = Field(
        True,
        description="K·W in place of W for the axes class and none, so that a uniform W is plain cross-entropy (our choice)",
        json_schema_extra=_by_preset("scale_by_classes"),
    )
    weight_per: Per = Field(
        "pixel",
        description="a weight per class of a pixel (one source), or one per pixel, which does not "
        "bias the minimiser towards the classes the student is worst at (our choice)",
        json_schema_extra=_by_preset("weight_per"),
    )
    discrepancy: Discrepancy = Field(
        "kl",
        description="cross_entropy: eq. 5 (one source); kl: KL of the softmaxes, times τ² (a public summary); bernoulli: "
        "binary KL of every class, times τ², as H is a binary entropy of every class (our choice)",
        json_schema_extra=_by_preset("discrepancy"),
    )
    proj_supervision: Literal["both", "student", "none"] = Field(
        "both", description="whose projected logits get cross-entropy to the labels (our choice)"
    )
    proj_gradient: Literal["backbone", "projector"] = Field(
        "backbone",
        description="how far the student's part of `proj` reaches: into the backbone, or into the student's projector only "
        "(our choice)",
    )
    keep_proj: bool = Field(
        False, description="keep the student's part of `proj` without `hakd` and `l2` (an ablation)"
    )
    teacher_projector: Literal["joint", "pretrained"] = Field(
        "joint",
        description="train the teacher's projector with the student, or use one that is "
        "trained once per teacher (our choice)",
    )
    projector_data: Role = Field(
        "student",
        description="training data of a pretrained projector: the student's, or the teacher's where that is another set, as "
        "for generated scenes (our choice)",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        shared = {"hakd_temperature": values["temperature"]} if "temperature" in values else {}
        return {**READINGS.get(values.get("preset", DEFAULT_READING), {}), **shared, **values}
