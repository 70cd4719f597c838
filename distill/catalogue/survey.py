"""Surveys the heads, backbones and methods of the installed libraries, with models on the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from distill.catalogue_entries import REFERENCE_SIZE, BackboneEntry, HeadEntry, MethodEntry
from distill.errors import UsageError
from distill.models.backbones import (
    Backbone,
    BackbonePlan,
    backbone_family,
    create_backbone,
    list_backbones,
    plan_backbone,
)
from distill.models.heads import head_card, list_heads

Size = tuple[int, int]

_LARGE = (448, 736)  # a multiple of 32, not of 7 · 32: windows of 7 must be padded
_ODD = (160, 288)
_REFUSALS = (UsageError, RuntimeError, ValueError, TypeError)


def versions() -> dict[str, str]:
    """Versions of the surveyed libraries."""
    return {name: version(name) for name in ("torch", "timm")}


def survey_heads() -> list[HeadEntry]:
    """All registered heads."""
    cards = [head_card(name) for name in list_heads()]
    return [
        HeadEntry(card.name, card.title, card.paper, card.output_stride, card.result_version)
        for card in cards
    ]


def survey_methods() -> list[MethodEntry]:
    """The methods of this package with their cards and settings."""
    from distill.methods import list_methods, method_class

    return [
        survey_method(name)
        for name in list_methods()
        if method_class(name).__module__.startswith("distill.methods.")
    ]


def survey_method(name: str) -> MethodEntry:
    """One method with its card, its settings and its own search space."""
    from distill.methods import method_class

    method = method_class(name)
    settings = method.Config.model_json_schema()
    return MethodEntry(
        name, asdict(method.card), settings, method.space, method.result_version, method.changed_default
    )


def survey_backbones(names: list[str] | None = None) -> list[BackboneEntry]:
    """The named backbones, or all: shapes, parameters and operations, counted on the meta device."""
    return [survey_backbone(name) for name in (list_backbones() if names is None else names)]


def list_unsurveyed() -> list[BackboneEntry]:
    """All backbones, with name and family only."""
    return [
        BackboneEntry(name, backbone_family(name), 0, 0.0, 0.0, None, (), (), {}, None)
        for name in list_backbones()
    ]


def survey_backbone(name: str) -> BackboneEntry:
    """One backbone; `reason` says why it cannot be used."""
    try:
        plan = plan_backbone(name, None, None)
        network = _on_meta(plan)
    except UsageError as error:
        return BackboneEntry(name, backbone_family(name), 0, 0.0, 0.0, None, (), (), {}, str(error))
    gmacs, quadratic, reason = _count(network)
    return BackboneEntry(
        name=name,
        family=plan.family,
        params=sum(parameter.numel() for parameter in network.parameters()),
        gmacs=round(gmacs, 4),
        gmacs_quadratic=round(quadratic, 4),
        gmacs_dilated=None if reason else _dilated_gmacs(name),
        channels=plan.channels,
        strides=plan.strides,
        head_channels=default_widths(name, plan.channels),
        reason=reason,
    )


def default_widths(name: str, channels: Sequence[int]) -> dict[str, int]:
    """Default width of every head over a backbone with these stage channels; empty if they are unknown."""
    return {head: head_card(head).default_channels(name, channels[-1]) for head in list_heads() if channels}


def _on_meta(plan: BackbonePlan) -> Backbone:
    with torch.device("meta"):
        return create_backbone(plan, pretrained=False).eval()


def _gmacs(network: Backbone, size: Size) -> tuple[float, tuple[torch.Tensor, ...]]:
    """10⁹ multiply-accumulates of one image, and the four stages."""
    images = torch.empty(1, 3, *size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        stages = network(images)
    return float(counter.get_total_flops()) / 2e9, stages


def _count(network: Backbone) -> tuple[float, float, str | None]:
    """10⁹ operations at the reference size, their quadratic part, and why the backbone cannot be used, if so."""
    size = (REFERENCE_SIZE, REFERENCE_SIZE)
    try:
        gmacs, stages = _gmacs(network, size)
    except _REFUSALS as error:
        return _gmacs_at_own_size(network), 0.0, _fixed_size(network, error)
    try:
        quadratic = _quadratic(network, gmacs) if network.plan.family == "transformer" else _try_size(network)
    except _REFUSALS as error:
        return gmacs, 0.0, _fixed_size(network, error)
    return gmacs, quadratic, _false_shapes(network.plan, stages, size)


def _quadratic(network: Backbone, gmacs: float) -> float:
    """b of g(A) = a·A + b·A², with A the area over the reference area, from the counts at two sizes."""
    ratio = _LARGE[0] * _LARGE[1] / REFERENCE_SIZE**2
    excess = _gmacs(network, _LARGE)[0] - ratio * gmacs
    return max(0.0, excess / (ratio**2 - ratio))


def _try_size(network: Backbone) -> float:
    """Check that an odd image size is accepted; a convolutional network has no quadratic part, so return 0."""
    with torch.no_grad():
        network(torch.empty(1, 3, *_ODD, device="meta"))
    return 0.0


def _own_size(network: Backbone) -> Size:
    """The size that timm built the backbone for."""
    config: Any = network.network.pretrained_cfg
    height, width = config["input_size"][-2:]
    return height, width


def _gmacs_at_own_size(network: Backbone) -> float:
    """10⁹ operations scaled to the reference size; 0 if the backbone cannot run on the meta device."""
    height, width = _own_size(network)
    try:
        return _gmacs(network, (height, width))[0] * REFERENCE_SIZE**2 / (height * width)
    except _REFUSALS:
        return 0.0


def _fixed_size(network: Backbone, error: Exception) -> str:
    height, width = _own_size(network)
    first_line = str(error).partition("\n")[0]
    return f"does not take images of any size, as built for {height}×{width}: {first_line}"


def _false_shapes(plan: BackbonePlan, stages: tuple[torch.Tensor, ...], size: Size) -> str | None:
    """Compare timm's channels and strides with the real stages; None if they agree."""
    expected = [
        (channels, -(-size[0] // stride), -(-size[1] // stride))
        for channels, stride in zip(plan.channels, plan.strides, strict=True)
    ]
    found = [tuple(features.shape[1:]) for features in stages]
    if found == expected:
        return None
    return f"its stages are {found} for an image of {size[0]}×{size[1]}, must be {expected}"


def _dilated_gmacs(name: str) -> float | None:
    try:
        plan = plan_backbone(name, None, 8)
    except UsageError:
        return None
    return round(_gmacs(_on_meta(plan), (REFERENCE_SIZE, REFERENCE_SIZE))[0], 4)
