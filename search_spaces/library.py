"""Pairs, recipes and prices that ship with the package, by name."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).parent


def pairs() -> dict[str, dict[str, Any]]:
    """Teacher and student of each known pair, as a sweep file writes them."""
    return _read("pairs.yaml")


def recipes() -> dict[str, dict[str, Any]]:
    """Each known recipe, as a sweep file writes it."""
    return _read("recipes.yaml")


def prices() -> dict[str, dict[str, Any]]:
    """Each known price of a worker hour: `hour`, `as_of`, and `what` it buys."""
    found: dict[str, dict[str, Any]] = _read("prices.yaml")["prices"]
    return found


def currency() -> str:
    """The currency of the price table."""
    return str(_read("prices.yaml")["currency"])


@cache
def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((_FOLDER / name).read_text(encoding="utf-8"))
    return found
