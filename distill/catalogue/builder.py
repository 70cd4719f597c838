"""Builds the catalogue: surveys the installed libraries and writes `catalogue.json`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from distill.catalogue_entries import CATALOGUE


def write_catalogue(path: Path, only: list[str] | None = None) -> int:
    """Survey the installed libraries and write the catalogue to `path`; returns the file's size in bytes.

    Args:
        path: the file to write.
        only: backbones to survey; the others are copied from the file at `path`, or listed with name and family
            only. None surveys all.
    """
    from distill.catalogue.survey import (
        default_widths,
        list_unsurveyed,
        survey_backbones,
        survey_heads,
        survey_methods,
        versions,
    )
    from distill.models.timm_weights import with_own_normalisation

    previous = json.loads(path.read_text(encoding="utf-8"))["backbones"] if only is not None else []
    surveyed = [asdict(entry) for entry in survey_backbones(only)]
    listed = [asdict(entry) for entry in list_unsurveyed()]
    for entry in previous:  # the set of heads may have changed since
        entry["head_channels"] = default_widths(entry["name"], entry["channels"])
    backbones = {entry["name"]: entry for entry in [*listed, *previous, *surveyed]}
    values = {
        "versions": versions(),
        "own_normalisation": with_own_normalisation(),
        "heads": [asdict(entry) for entry in survey_heads()],
        "methods": [asdict(entry) for entry in survey_methods()],
        "backbones": [backbones[name] for name in sorted(backbones)],
    }
    lines = []
    for key, value in values.items():
        if key in ("versions", "own_normalisation"):
            lines.append(f'"{key}": {json.dumps(value)}')
            continue
        rows = ",\n".join(json.dumps(row, separators=(",", ":"), sort_keys=True) for row in value)
        lines.append(f'"{key}": [\n{rows}\n]')
    text = "{" + ",\n".join(lines) + "}\n"
    path.write_text(text, encoding="utf-8")
    return len(text.encode())


def main(arguments: list[str] | None = None) -> None:
    """Run `python -m distill.catalogue`: regenerate the catalogue."""
    parser = argparse.ArgumentParser(
        prog="python -m distill.catalogue",
        description="Write the catalogue from the installed libraries; all backbones take about an hour.",
    )
    parser.add_argument("--output", type=Path, default=CATALOGUE, help="the file to write")
    parser.add_argument(
        "--only",
        nargs="*",
        metavar="BACKBONE",
        help="survey these backbones only and copy the others; without a name, update heads and methods only",
    )
    chosen = parser.parse_args(arguments)
    path: Path = chosen.output
    print(f"{path}: {write_catalogue(path, chosen.only) / 1000:.0f} kB")
