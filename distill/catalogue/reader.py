"""Reads the catalogue: which models and methods exist, and what a model costs.

Imports neither torch nor timm, except where an installed package provides methods.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from distill.catalogue.head_costs import HeadShapes, head_cost
from distill.catalogue.loss_costs import ModelShapes
from distill.catalogue_entries import (
    CATALOGUE,
    METHODS,
    REFERENCE_SIZE,
    BackboneEntry,
    Catalogue,
    HeadEntry,
    MethodEntry,
    ModelCost,
)
from distill.errors import UsageError, unknown

_AT_FIRST_STAGE = {
    "deeplabv3plus",
    "segformer",
    "upernet",
}  # heads whose result has the stride of the first stage
_SIZE_ARGUMENTS = {"img_size", "dynamic_img_size", "strict_img_size"}


@lru_cache(maxsize=1)
def load_catalogue() -> Catalogue:
    """The generated catalogue, plus the methods of installed packages; cached per process.

    torch is imported only if an installed package provides methods.
    """
    values = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    return Catalogue(
        versions=values["versions"],
        heads={entry["name"]: HeadEntry(**entry) for entry in values["heads"]},
        backbones={entry["name"]: _backbone(entry) for entry in values["backbones"]},
        methods={entry["name"]: MethodEntry(**entry) for entry in values["methods"]} | _installed_methods(),
        own_normalisation=frozenset(values["own_normalisation"]),
    )


def _installed_methods() -> dict[str, MethodEntry]:
    names = [entry.name for entry in entry_points(group=METHODS)]
    if not names:
        return {}
    from distill.catalogue.survey import survey_method

    return {name: survey_method(name) for name in names}


def _backbone(entry: dict[str, Any]) -> BackboneEntry:
    shapes = {key: tuple(entry[key]) for key in ("channels", "strides")}
    return BackboneEntry(**{**entry, **shapes})


def check_model_name(name: str) -> tuple[HeadEntry, BackboneEntry]:
    """Head and backbone of a model name `head-backbone`; a weights tag after a dot is not checked.

    Raises:
        UsageError: the name has no dash, the head or backbone is unknown (the message names the nearest), or the
            backbone has fewer than four feature maps.
    """
    catalogue = load_catalogue()
    head, dash, backbone = name.partition("-")
    if not dash:
        raise UsageError(
            f"model '{name}' must be written head-backbone, such as 'deeplabv3-resnet18'; "
            f"heads: {', '.join(catalogue.heads)}"
        )
    if head not in catalogue.heads:
        raise unknown("head", head, catalogue.heads)
    architecture = backbone.partition(".")[0]
    if architecture not in catalogue.backbones:
        raise unknown("backbone", backbone, catalogue.backbones)
    entry = catalogue.backbones[architecture]
    if entry.reason is not None and not entry.channels:
        raise UsageError(f"{entry.reason}; choose another backbone")
    return catalogue.heads[head], entry


def model_cost(name: str, options: Mapping[str, Any], num_classes: int, height: int, width: int) -> ModelCost:
    """Parameters and forward FLOPs of a model, estimated without building it.

    The backbone's counted operations are scaled by the image's area, global attention by its square; the
    head is counted by formula.

    Args:
        name: `head-backbone`.
        options: keyword arguments of `build_model`; `output_stride` and `head_channels` matter.
        num_classes: number of classes K.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Raises:
        UsageError: the name is unknown, or `backbone_args` change the network so that the catalogue does not apply.
    """
    head, backbone = _surveyed(name, options)
    stride, strides = _strides(head, backbone, options)
    own = head_cost(
        head.name,
        HeadShapes(
            channels=backbone.channels,
            cells=tuple((-(-height // s)) * (-(-width // s)) for s in strides),
            width=_width(head, backbone, options),
            classes=num_classes,
        ),
    )
    macs = own.macs + 1e9 * _backbone_gmacs(backbone, stride, height * width)
    return ModelCost(params=backbone.params + own.params, flops_forward=round(2 * macs))


def model_shapes(name: str, options: Mapping[str, Any]) -> ModelShapes:
    """Channels and strides of a model's maps, found without building it; arguments and errors as for `model_cost`."""
    head, backbone = _surveyed(name, options)
    _, strides = _strides(head, backbone, options)
    fused_stride = strides[0] if head.name in _AT_FIRST_STAGE else strides[-1]
    return ModelShapes(backbone.channels, strides, _width(head, backbone, options), fused_stride)


def _surveyed(name: str, options: Mapping[str, Any]) -> tuple[HeadEntry, BackboneEntry]:
    head, backbone = check_model_name(name)
    if not backbone.channels:
        raise UsageError(f"the cost of '{name}' is not in the catalogue; count it with distill.models.costs")
    unsupported = sorted(set(options.get("backbone_args") or {}) - _SIZE_ARGUMENTS)
    if unsupported:
        raise UsageError(
            f"the cost of '{name}' with backbone_args {', '.join(unsupported)} is not in the catalogue; "
            "count it with distill.models.costs"
        )
    return head, backbone


def _strides(
    head: HeadEntry, backbone: BackboneEntry, options: Mapping[str, Any]
) -> tuple[int | None, tuple[int, ...]]:
    """The stride that the backbone is dilated to, None if it is not, and the strides of its stages."""
    stride = options.get("output_stride") or head.output_stride
    if stride is None or stride >= backbone.strides[-1] or backbone.gmacs_dilated is None:
        return None, backbone.strides
    return stride, tuple(min(s, stride) for s in backbone.strides)


def _width(head: HeadEntry, backbone: BackboneEntry, options: Mapping[str, Any]) -> int:
    return int(options.get("head_channels") or backbone.head_channels[head.name])


def _backbone_gmacs(backbone: BackboneEntry, stride: int | None, area: int) -> float:
    ratio = area / REFERENCE_SIZE**2
    linear = backbone.gmacs - backbone.gmacs_quadratic
    if stride is not None and backbone.gmacs_dilated is not None:
        linear = backbone.gmacs_dilated - backbone.gmacs_quadratic
        if stride == 16:
            # Stage 4 has four times its cells; at 8 it has sixteen and stage 3 four times. With equal stages
            # that is a sixth of the way.
            linear = (5 * backbone.gmacs + backbone.gmacs_dilated) / 6 - backbone.gmacs_quadratic
    return linear * ratio + backbone.gmacs_quadratic * ratio**2
