"""What the sections of `docs/performance.md` are made of: tables, intervals, aims."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Aims = list[tuple[str, float, bool]]
Rows = Sequence[Mapping[str, Any]]


def ratios(rows: Rows, others: Rows, key: str) -> list[float]:
    return [row[key] / other[key] for row, other in zip(rows, others, strict=True)]


def spread(rows: Rows, key: str, digits: int = 1) -> str:
    return interval([row[key] for row in rows], digits)


def interval(values: Sequence[float], digits: int = 2) -> str:
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def machine(machine: Mapping[str, Any]) -> str:
    return f"{machine['cpus']} {machine['machine']} cores, load average {machine['load_before']:g} before the start."
