"""Number formats of all pages."""

from __future__ import annotations

import math

from orchestrator.leaderboard.entries import BoardRow
from orchestrator.leaderboard.scores import Estimate

NOTHING = "–"


def rank(row: BoardRow) -> str:
    """The rank interval, or a dash if the method is not ranked."""
    if row.rank_low is None or row.rank_high is None:
        return NOTHING
    return f"{row.rank_low}" if row.rank_low == row.rank_high else f"{row.rank_low}–{row.rank_high}"


def gain(row: BoardRow) -> str:
    """The gain over the student alone with its paired interval, in points."""
    return signed(row.gain) + (
        interval(row.gain_low, row.gain_high, sign=True) if row.gain is not None else ""
    )


def signed(value: float | None) -> str:
    """A difference of mIoU in points, with its sign."""
    return NOTHING if value is None else _with_sign(100 * value)


def interval(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """` [low, high]` in points; ` (n/a)` if there is no interval."""
    if low is None or high is None:
        return " (n/a)"
    ends = (_with_sign(100 * end) if sign else number(end, 100, 1) for end in (low, high))
    return f" [{', '.join(ends)}]"


def _with_sign(value: float) -> str:
    return "0.0" if round(value, 1) == 0 else with_minus(f"{value:+.1f}")


def with_minus(figure: str) -> str:
    """A formatted number with a minus sign (−) instead of a hyphen, for every number that a person reads.

    Values that are copied into a sweep file, such as hyper-parameters, keep their hyphen.
    """
    return figure.replace("-", "−")


def letter(place: int) -> str:
    """Short name of the pair at index `place`: A, B, …, Z, AA, …"""
    letters = ""
    place += 1
    while place:
        place, rest = divmod(place - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def points(value: float | None) -> str:
    """mIoU in points."""
    return number(value, 100, 1)


def estimate(estimate: Estimate | None) -> str:
    """A mean in points with its interval."""
    return NOTHING if estimate is None else points(estimate.mean) + interval(estimate.low, estimate.high)


def estimated_gain(estimate: Estimate | None) -> str:
    """A mean difference in points with its interval."""
    if estimate is None:
        return NOTHING
    return signed(estimate.mean) + interval(estimate.low, estimate.high, sign=True)


def margin(estimate: Estimate) -> str:
    """A mean difference in points, ± half of its interval's width; without ± if there is no interval."""
    if estimate.high is None:
        return signed(estimate.mean)
    return f"{signed(estimate.mean)} ±{100 * (estimate.high - estimate.mean):.1f}"


def share(value: float, low: float | None, high: float | None) -> str:
    """A share in per cent with its interval."""
    if low is None or high is None:
        return f"{number(value, 100, 0)} % (n/a)"
    return f"{number(value, 100, 0)} % [{number(low, 100, 0)}, {number(high, 100, 0)}]"


def ends(low: float | None, high: float | None) -> str:
    """An interval alone, in points."""
    return NOTHING if low is None else interval(low, high, sign=True).strip()


def probability(value: float | None) -> str:
    """A p value with two significant digits."""
    if value is None:
        return NOTHING
    return "< 0.0001" if value < 0.0001 else "1" if value > 0.995 else f"{value:.2g}"


def number(value: float | None, factor: float, digits: int, unit: str = "") -> str:
    """`value * factor` with `digits` decimals; a dash for None and nan."""
    if value is None or math.isnan(value):
        return NOTHING
    return with_minus(f"{value * factor:.{digits}f}{unit}")


def measure(value: float | None, factor: float = 1.0) -> str:
    """`value * factor` with three significant digits, for values that span orders of magnitude."""
    if value is None or math.isnan(value):
        return NOTHING
    text = f"{value * factor:.0f}" if abs(value * factor) >= 99.95 else f"{value * factor:#.3g}"
    return with_minus(text)
