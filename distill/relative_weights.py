"""How a weight is written relative to the task's loss: `balanced.<term>_weight`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.errors import UsageError

PREFIX = "balanced."
STEPS = 20
"""Steps over which the pull of a term is measured; from then on its weight stands."""


def split_balanced(settings: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """A method's settings without the prefix, and the terms whose weights are relative.

    Raises:
        UsageError: a relative setting that is no weight, or a weight that is given both ways.
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
    """The weight that a setting `balanced.<weight>` is about.

    Raises:
        UsageError: only weights, whose names end in `_weight`, can be relative.
    """
    weight = setting.removeprefix(PREFIX)
    if not weight.endswith("_weight"):
        raise UsageError(
            f"'{setting}' is relative to the task's loss, must be a weight; leave '{PREFIX}' out"
        )
    return weight
