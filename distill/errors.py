"""The one error that bad input raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_FEW = 20


class UsageError(ValueError):
    """Input that cannot be used. The message holds the value, the rule, the remedy and the place."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names closest to a misspelt one, best first; empty where none is close."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """An error that names the unknown value, the nearest known ones, and all known ones when they are few."""
    names = sorted(known)
    close = nearest(name, names)
    hint = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else "."
    listing = f" Known: {', '.join(names)}." if len(names) <= _FEW else f" {len(names)} are known."
    return UsageError(f"{what} '{name}' is not known{hint}{listing}")
