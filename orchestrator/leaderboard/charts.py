"""The page's drawings, as SVG text: family by shape as well as colour, sizes that stay readable on a phone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 420  # drawn at this width, so that labels keep their size on a narrow screen
_ROW = 22
_LEFT = 110

_SHAPES = {
    "baseline": "M-5,-5h10v10h-10z",
    "logits": "M-5.5,0a5.5,5.5 0 1,0 11,0a5.5,5.5 0 1,0 -11,0z",
    "relations": "M0,-6l6,11h-12z",
    "features": "M0,-6.5l6,6.5l-6,6.5l-6,-6.5z",
    "heterogeneous": "M-2,-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
}
_OTHER = "M-5,-3l5,-4l5,4l-2,7h-6z"


@dataclass(frozen=True)
class Mark:
    """A method on a drawing: its value with an interval where there is one, and a cost where the chart has one."""

    name: str
    family: str
    value: float
    low: float | None
    high: float | None
    cost: float = 0.0


def shape(family: str, x: float, y: float) -> str:
    """A family's mark at a place."""
    return f'<path class="f {css_class(family)}" transform="translate({x:.1f} {y:.1f})" d="{_SHAPES.get(family, _OTHER)}"/>'


def css_class(family: str) -> str:
    """The style class of a family; unknown ones share one."""
    return f"f-{family}" if family in _SHAPES else "f-other"


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that part [low, high] into about `count` steps."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def forest(marks: Sequence[Mark], title: str) -> str:
    """Gains in points with their intervals, one line per method, against the student alone at zero."""
    ends = [end for mark in marks for end in (mark.value, mark.low, mark.high) if end is not None]
    low, high = _padded([*ends, 0.0])
    height = _ROW * len(marks) + 46
    across = _scale(low, high, _LEFT, WIDTH - 12)
    parts = [_begin(height, title)]
    for tick in ticks(low, high):
        x = across(tick)
        kind = "zero" if abs(tick) < 1e-12 else "grid"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 38}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - 24}" text-anchor="middle">{_signed(tick)}</text>'
        )
    for place, mark in enumerate(marks):
        y = 4 + _ROW * (place + 0.5)
        told = f"{mark.name}: {mark.value:+.2f}"
        if mark.low is not None and mark.high is not None:
            told += f" [{mark.low:+.2f}, {mark.high:+.2f}]"
        parts.append(f'<g data-m="{escape(mark.name)}"><title>{escape(told)}</title>')
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(_short(mark.name))}</text>'
        )
        if mark.low is not None and mark.high is not None:
            parts.append(_line(css_class(mark.family), across(mark.low), y, across(mark.high), y))
        parts.append(shape(mark.family, across(mark.value), y) + "</g>")
    foot = "gain in mIoU points over the student alone"
    parts.append(
        f'<text class="tick" x="{(_LEFT + WIDTH) / 2}" y="{height - 6}" text-anchor="middle">{foot}</text>'
    )
    return "".join(parts) + "</svg>"


def scatter(marks: Sequence[Mark], title: str, across_label: str, up_label: str) -> str:
    """Value against cost (logarithmic where it spans more than tenfold), with the front of the best per cost."""
    height, left, right, top, bottom = 300, 46, 12, 14, 44
    costs = [mark.cost for mark in marks]
    logarithmic = min(costs) > 0 and max(costs) / min(costs) > 10
    ends = [end for mark in marks for end in (mark.value, mark.low, mark.high) if end is not None]
    low, high = _padded(ends)
    change: Callable[[float], float] = math.log10 if logarithmic else float
    first, last = _padded([change(cost) for cost in costs])
    along = _scale(first, last, left, WIDTH - right)
    up = _scale(low, high, height - bottom, top)
    parts = [_begin(height, title)]
    for tick in ticks(low, high):
        parts.append(_line("grid", left, up(tick), WIDTH - right, up(tick)))
        parts.append(
            f'<text class="tick" x="{left - 5}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:.4g}</text>'
        )
    for tick in ticks(first, last):
        told = f"{10**tick:.3g}" if logarithmic else f"{tick:.4g}"
        parts.append(
            f'<text class="tick" x="{along(tick):.1f}" y="{height - 26}" text-anchor="middle">{told}</text>'
        )
    front = _front(marks)
    path = " ".join(f"{along(change(mark.cost)):.1f},{up(mark.value):.1f}" for mark in front)
    parts.append(f'<polyline class="front" points="{path}"/>')
    taken: list[tuple[float, float]] = []
    for mark in sorted(marks, key=lambda mark: (mark not in front, -mark.value, mark.name)):
        x, y = along(change(mark.cost)), up(mark.value)
        told = f"{mark.name}: {mark.value:.2f} at {mark.cost:.4g}"
        parts.append(f'<g data-m="{escape(mark.name)}"><title>{escape(told)}</title>')
        if mark.low is not None and mark.high is not None:
            parts.append(_line(f"thin {css_class(mark.family)}", x, up(mark.low), x, up(mark.high)))
        parts.append(shape(mark.family, x, y))
        # A label only where it covers no other one; every mark tells its name when pointed at.
        if all(abs(x - a) > 60 or abs(y - b) > 12 for a, b in taken):
            taken.append((x, y))
            anchor, shift = ("end", -9) if x > WIDTH - 90 else ("start", 9)
            parts.append(
                f'<text x="{x + shift:.1f}" y="{y - 6:.1f}" text-anchor="{anchor}">{escape(_short(mark.name))}</text>'
            )
        parts.append("</g>")
    parts.append(
        f'<text class="tick" x="{(left + WIDTH) / 2}" y="{height - 8}" text-anchor="middle">{escape(across_label)}</text>'
    )
    parts.append(f'<text class="tick" x="4" y="{top - 3}">{escape(up_label)}</text>')
    return "".join(parts) + "</svg>"


def _front(marks: Sequence[Mark]) -> list[Mark]:
    """The marks that none beats at their cost or less, cheapest first."""
    front: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: (mark.cost, -mark.value, mark.name)):
        if not front or mark.value > front[-1].value:
            front.append(mark)
    return front


def _begin(height: float, title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad


def _signed(value: float) -> str:
    return "0" if abs(value) < 1e-12 else f"{value:+.3g}"


def _short(name: str, limit: int = 17) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
