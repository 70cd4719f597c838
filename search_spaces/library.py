"""Pairs and recipes that ship with the package, by name."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).parent


@lru_cache(maxsize=1)
def pairs() -> dict[str, dict[str, Any]]:
    """Teacher and student of each known pair, as a sweep file writes them."""
    return _read("pairs.yaml")


@lru_cache(maxsize=1)
def recipes() -> dict[str, dict[str, Any]]:
    """Each known recipe, as a sweep file writes it."""
    return _read("recipes.yaml")


def _read(name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((_FOLDER / name).read_text())
    return found
