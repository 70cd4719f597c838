"""Presets: sweep files of the package."""

from __future__ import annotations

from pathlib import Path

from distill.errors import unknown

_FOLDER = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Names of the presets, in alphabetical order."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """File of a preset.

    Raises:
        UsageError: there is no such preset.
    """
    path = _FOLDER / f"{name}.yaml"
    if name not in preset_names():
        raise unknown("preset", name, preset_names())
    return path
