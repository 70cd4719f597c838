"""Settings of weights relative to the task's loss: `balanced.<term>_weight`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.errors import UsageError

PREFIX = "balanced."
STEPS = 20
"""Steps over which gradient norms are measured; afterwards the weight is constant."""


def split_balanced(settings: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """A method's settings without the prefix, and the terms whose weights are relative.

    Raises:
        UsageError: a relative setting is not a weight, or a weight is given both ways.
    """
    plain = {name: value for name, value in settings.items() if not name.startswith(PREFIX)}
    terms = set()
    for name, value in settings.items():
        if not name.startswith(PREFIX):
            continue
        weight = weight_name(name)
        if weight in plain:
            raise UsageError(f"{weight} and {name} are both given, must be one of them; leave one out")
        plain[weight] = value
        terms.add(weight.removesuffix("_weight"))
    return plain, frozenset(terms)


def weight_name(setting: str) -> str:
    """The weight of a setting `balanced.<weight>`.

    Raises:
        UsageError: the setting is not a weight, whose name ends in `_weight`.
    """
    weight = setting.removeprefix(PREFIX)
    if not weight.endswith("_weight"):
        raise UsageError(
            f"'{setting}' is relative to the task's loss, must be a weight; leave '{PREFIX}' out"
        )
    return weight
