"""The one error that bad input raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Input that cannot be used. The message holds the value, the rule, the remedy and the place."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names closest to a misspelt one, best first; empty where none is close."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """An error that names the unknown value, the nearest known ones, and all known ones when they are few."""
    names = sorted(known)
    close = nearest(name, names)
    message = f"{what} '{name}' is not known"
    if close:
        message += f"; did you mean {' or '.join(repr(c) for c in close)}?"
    if len(names) <= 20:
        message += f" Known: {', '.join(names)}."
    return UsageError(message)
