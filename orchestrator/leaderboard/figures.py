"""Figures as every page writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.leaderboard.comparison import Estimate
from orchestrator.leaderboard.entries import Row

NOTHING = "–"


def rank(row: Row) -> str:
    """The rank interval, or a dash where the method is not ranked."""
    if row.rank_low is None or row.rank_high is None:
        return "–"
    return f"{row.rank_low}" if row.rank_low == row.rank_high else f"{row.rank_low}–{row.rank_high}"


def gain(row: Row) -> str:
    """The gain over the student alone with its paired interval, in points."""
    return signed(row.gain) + (
        interval(row.gain_low, row.gain_high, sign=True) if row.gain is not None else ""
    )


def signed(value: float | None) -> str:
    """A difference of mIoU in points, with its sign."""
    return "–" if value is None else f"{_unsigned_zero(100 * value):+.2f}"


def interval(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """` [low, high]` in points; ` (n/a)` where there is none, never an interval of zero width."""
    if low is None or high is None:
        return " (n/a)"
    form = "+.2f" if sign else ".2f"
    return f" [{_unsigned_zero(100 * low):{form}}, {_unsigned_zero(100 * high):{form}}]"


def _unsigned_zero(value: float) -> float:
    return 0.0 if round(value, 2) == 0 else value


def letter(place: int) -> str:
    """A, B, …, Z, AA, …: short names of pairs in the table's header."""
    letters = ""
    place += 1
    while place:
        place, rest = divmod(place - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def points(value: float | None) -> str:
    """mIoU in points."""
    return number(value, 100, 2)


def estimate(estimate: Estimate | None) -> str:
    """A mean in points with its interval."""
    return NOTHING if estimate is None else points(estimate.mean) + interval(estimate.low, estimate.high)


def ends(low: float | None, high: float | None) -> str:
    """An interval alone, in points."""
    return NOTHING if low is None else interval(low, high, sign=True).strip()


def probability(value: float | None) -> str:
    """A p value."""
    if value is None:
        return NOTHING
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def number(value: float | None, factor: float, digits: int, unit: str = "") -> str:
    """`value * factor` with so many digits; a dash for None and nan."""
    return NOTHING if value is None or math.isnan(value) else f"{value * factor:.{digits}f}{unit}"


def spread(values: Sequence[float | None], factor: float, digits: int) -> str:
    """One number, or the range over pairs."""
    told = list(dict.fromkeys(number(v, factor, digits) for v in sorted(v for v in values if v is not None)))
    if not told or len(told) == 1:
        return told[0] if told else NOTHING
    return f"{told[0]}–{told[-1]}"
