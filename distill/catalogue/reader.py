"""What can be chosen, as data: heads, backbones with their cost, and methods. Imports neither torch nor timm.

`python -m distill.catalogue` asks the installed libraries and writes `catalogue.json` beside this file;
everything else here reads that file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from distill.catalogue.head_costs import HeadShapes, head_cost
from distill.errors import UsageError, unknown

CATALOGUE = Path(__file__).with_name("catalogue.json")
METHODS = "heteroakd.methods"  # entry points of other packages' methods
REFERENCE_SIZE = 224
_SIZE_ARGUMENTS = {"img_size", "dynamic_img_size", "strict_img_size"}


@dataclass(frozen=True)
class HeadEntry:
    """A segmentation head.

    Attributes:
        name: the part of a model's name before the dash.
        title: the paper's name for it.
        paper: title, venue and arXiv number.
        output_stride: stride the backbone is dilated to where it can be, None for the backbone's own.
    """

    name: str
    title: str
    paper: str
    output_stride: int | None


@dataclass(frozen=True)
class BackboneEntry:
    """A backbone.

    Attributes:
        name: the part of a model's name after the dash.
        family: cnn or transformer.
        params: parameters of the feature extractor.
        gmacs: 10⁹ multiply-accumulates of one image of 224×224.
        gmacs_quadratic: the part of `gmacs` that grows with the squared area of the image (global attention).
        gmacs_dilated: the same as `gmacs` at output stride 8; None where the backbone cannot be dilated.
        channels: channels of the four stages.
        strides: strides of the four stages.
        head_channels: default width of each head over this backbone.
        reason: why `build_model` or images of any size cannot be had with it; None where all is well.

    Of a backbone that was never surveyed only name and family are known: `channels` is empty and `reason` None.
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
    """A method: its card (see `distill.methods.Card`), the JSON schema of its settings, and a search space of its own.

    Methods of this package have none: theirs lie in `search_spaces/methods/`.
    """

    name: str
    card: Mapping[str, Any]
    settings: Mapping[str, Any]
    space: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Catalogue:
    """Everything that can be chosen by name, and the library versions that said so."""

    versions: Mapping[str, str]
    heads: Mapping[str, HeadEntry]
    backbones: Mapping[str, BackboneEntry]
    methods: Mapping[str, MethodEntry]


@dataclass(frozen=True)
class ModelCost:
    """What a model costs.

    Attributes:
        params: parameters.
        flops_forward: floating-point operations of one image's forward pass; a multiply-accumulate is two.
    """

    params: int
    flops_forward: int


@lru_cache(maxsize=1)
def load_catalogue() -> Catalogue:
    """The catalogue as it was generated, and the methods of installed packages; read once a process.

    Only where a package brings methods along is torch imported, with that package.
    """
    values = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    return Catalogue(
        versions=values["versions"],
        heads={entry["name"]: HeadEntry(**entry) for entry in values["heads"]},
        backbones={entry["name"]: _backbone(entry) for entry in values["backbones"]},
        methods={entry["name"]: MethodEntry(**entry) for entry in values["methods"]} | _installed_methods(),
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
    """Head and backbone of `head-backbone`; a weights tag after a dot is left to the builder.

    Raises:
        UsageError: no dash, or an unknown head or backbone (names the nearest), or a backbone with fewer than
            four feature maps.
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
        UsageError: an unknown name, or `backbone_args` that make another network than the catalogue knows.
    """
    head, backbone = check_model_name(name)
    if not backbone.channels:
        raise UsageError(f"the cost of '{name}' is not in the catalogue; count it with distill.models.costs")
    strangers = sorted(set(options.get("backbone_args") or {}) - _SIZE_ARGUMENTS)
    if strangers:
        raise UsageError(
            f"the cost of '{name}' with backbone_args {', '.join(strangers)} is not in the catalogue; "
            "count it with distill.models.costs"
        )
    stride = options.get("output_stride") or head.output_stride
    dilated = stride is not None and stride < backbone.strides[-1] and backbone.gmacs_dilated is not None
    strides = tuple(min(s, stride) for s in backbone.strides) if dilated and stride else backbone.strides
    own = head_cost(
        head.name,
        HeadShapes(
            channels=backbone.channels,
            cells=tuple((-(-height // s)) * (-(-width // s)) for s in strides),
            width=options.get("head_channels") or backbone.head_channels[head.name],
            classes=num_classes,
        ),
    )
    macs = own.macs + 1e9 * _backbone_gmacs(backbone, stride if dilated else None, height * width)
    return ModelCost(params=backbone.params + own.params, flops_forward=round(2 * macs))


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


def write_catalogue(path: Path, only: list[str] | None = None) -> int:
    """Ask the installed libraries for everything and write it to `path`; returns the file's size in bytes.

    Args:
        path: the file to write.
        only: backbones to survey; the others stay as the file at `path` has them, or are listed by name and family.
            None surveys all.
    """
    from distill.catalogue.survey import (
        default_widths,
        list_unsurveyed,
        survey_backbones,
        survey_heads,
        survey_methods,
        versions,
    )

    kept = json.loads(path.read_text(encoding="utf-8"))["backbones"] if only is not None else []
    surveyed = [asdict(entry) for entry in survey_backbones(only)]
    listed = [asdict(entry) for entry in list_unsurveyed()]
    for entry in kept:  # heads may have come or gone since
        entry["head_channels"] = default_widths(entry["name"], entry["channels"])
    backbones = {entry["name"]: entry for entry in [*listed, *kept, *surveyed]}
    values = {
        "versions": versions(),
        "heads": [asdict(entry) for entry in survey_heads()],
        "methods": [asdict(entry) for entry in survey_methods()],
        "backbones": [backbones[name] for name in sorted(backbones)],
    }
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines.append(f'"{key}": {json.dumps(value)}')
            continue
        rows = ",\n".join(json.dumps(row, separators=(",", ":"), sort_keys=True) for row in value)
        lines.append(f'"{key}": [\n{rows}\n]')
    text = "{" + ",\n".join(lines) + "}\n"
    path.write_text(text, encoding="utf-8")
    return len(text.encode())


def main(arguments: list[str] | None = None) -> None:
    """`python -m distill.catalogue`: generate the catalogue anew (some minutes on one core)."""
    parser = argparse.ArgumentParser(
        prog="python -m distill.catalogue",
        description="Write the catalogue from the installed libraries; all backbones take about an hour.",
    )
    parser.add_argument("--output", type=Path, default=CATALOGUE, help="the file to write")
    parser.add_argument(
        "--only",
        nargs="*",
        metavar="BACKBONE",
        help="survey these backbones only and keep the others as they are; none: heads and methods only",
    )
    chosen = parser.parse_args(arguments)
    path: Path = chosen.output
    print(f"{path}: {write_catalogue(path, chosen.only) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
