"""Named pairs, recipes and prices of the package."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).parent


def pairs() -> dict[str, dict[str, Any]]:
    """Teacher and student of each named pair, in the form of a sweep file."""
    return _read("pairs.yaml")


def recipes() -> dict[str, dict[str, Any]]:
    """Each named recipe, in the form of a sweep file."""
    return _read("recipes.yaml")


def prices() -> dict[str, dict[str, Any]]:
    """Each named price of a worker hour: the price `hour`, its date `as_of`, and the hardware `what`."""
    found: dict[str, dict[str, Any]] = _read("prices.yaml")["prices"]
    return found


def currency() -> str:
    """Currency of the price table."""
    return str(_read("prices.yaml")["currency"])


@cache
def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((_FOLDER / name).read_text(encoding="utf-8"))
    return found
