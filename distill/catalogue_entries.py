"""Entries of the catalogue: heads, backbones with their cost, and methods, as plain data.

Imports neither torch nor timm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

CATALOGUE = Path(__file__).parent / "catalogue" / "catalogue.json"
"""The generated file: `python -m distill.catalogue` writes it, `load_catalogue` reads it."""

METHODS = "heteroakd.methods"
"""Group of the entry points by which other packages provide methods."""

REFERENCE_SIZE = 224
"""Side in pixels of the square image whose operations are counted."""


@dataclass(frozen=True)
class HeadEntry:
    """A segmentation head.

    Attributes:
        name: the part of a model's name before the dash.
        title: the paper's name for it.
        paper: title, venue and arXiv number.
        output_stride: stride to which backbones that support it are dilated; None keeps the backbone's own.
        result_version: raised when a change alters the last bits of the head's output; from 2 on it is part of ids.
    """

    name: str
    title: str
    paper: str
    output_stride: int | None
    result_version: int = 1


@dataclass(frozen=True)
class BackboneEntry:
    """A backbone.

    Attributes:
        name: the part of a model's name after the dash.
        family: cnn or transformer.
        params: parameters of the feature extractor.
        gmacs: 10⁹ multiply-accumulates of one image of 224×224.
        gmacs_quadratic: the part of `gmacs` that grows with the squared area of the image (global attention).
        gmacs_dilated: `gmacs` at output stride 8; None if the backbone cannot be dilated.
        channels: channels of the four stages.
        strides: strides of the four stages.
        head_channels: default width of each head over this backbone.
        reason: why the backbone cannot be built, or why it does not accept images of any size; None if it does both.

    A backbone that was never surveyed has only name and family: `channels` is empty and `reason` None.
    """

    name: str
    family: Literal["cnn", "transformer"]
    params: int
    gmacs: float
    gmacs_quadratic: float
    gmacs_dilated: float | None
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    head_channels: Mapping[str, int]
    reason: str | None


@dataclass(frozen=True)
class MethodEntry:
    """A method: its card (see `distill.methods.Card`), the JSON schema of its settings, its search space and result version.

    `space` is None for methods of this package, whose spaces are files in `search_spaces/methods/`. `changed_default` is the
    setting whose default the raised version is about, if that is all.
    """

    name: str
    card: Mapping[str, Any]
    settings: Mapping[str, Any]
    space: Mapping[str, Any] | None = None
    result_version: int = 1
    changed_default: str | None = None


@dataclass(frozen=True)
class Catalogue:
    """All heads, backbones and methods, and the library versions that were surveyed.

    `own_normalisation` has the backbones, with and without a weights tag, whose pretrained weights were trained with
    another mean or standard deviation than ImageNet's.
    """

    versions: Mapping[str, str]
    heads: Mapping[str, HeadEntry]
    backbones: Mapping[str, BackboneEntry]
    methods: Mapping[str, MethodEntry]
    own_normalisation: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ModelCost:
    """Cost of a model.

    Attributes:
        params: parameters.
        flops_forward: floating-point operations of one image's forward pass; a multiply-accumulate is two.
    """

    params: int
    flops_forward: int
