"""SVG charts. Horizontal positions are percentages, so that a chart fills its width without scaling its text.

Families of methods differ in shape and colour. The shapes are defined once per page (`symbols`) and referenced. All
text is escaped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

from markupsafe import Markup

from orchestrator.leaderboard.label_placement import Dot, place_labels
from orchestrator.leaderboard.number_formats import with_minus

_SHAPES = {
    "baseline": "M-5,-5h10v10h-10z",
    "logits": "M-5.5,0a5.5,5.5 0 1,0 11,0a5.5,5.5 0 1,0 -11,0z",
    "relations": "M0,-6l6,11h-12z",
    "features": "M0,-6.5l6,6.5l-6,6.5l-6,-6.5z",
    "heterogeneous": "M-2,-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    "other": "M-5,-3l5,-4l5,4l-2,7h-6z",
}
_HEIGHT, _TOP, _BOTTOM = 344, 40, 42
_LEFT, _RIGHT = 13.0, 95.0  # per cent; the labels of the vertical axis are left of the data
_CURVES_RIGHT = 70.0  # names of curves are right of their ends
_LABEL_STEP = 15
_CROWDED = (
    20  # with more marks no intervals are drawn, as they would hide the marks; the forest plot has them
)


@dataclass(frozen=True)
class Mark:
    """A method in a chart: its value with an optional interval, and its cost for a scatter."""

    name: str
    family: str
    value: float
    low: float | None
    high: float | None
    cost: float = 0.0
    about: str = ""
    """The method, if `name` is not just the method."""

    @property
    def method(self) -> str:
        """The method; the page hides the mark when this method is filtered out."""
        return self.about or self.name


@dataclass(frozen=True)
class Curve:
    """The curve of a method: its values at 1, 2, 3, …"""

    name: str
    family: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Bundle:
    """The curves of one method: a thin line for each of several trainings, and the main one. Points are (step, value)."""

    name: str
    family: str
    lines: tuple[tuple[tuple[float, float], ...], ...]
    main: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class ForestAxis:
    """The axis that forest plots share: ticks as (per cent, text), their lines as CSS, and the scale to per cent."""

    ticks: tuple[tuple[float, str], ...]
    lines: str
    scale: Callable[[float], float]


def css_class(family: str) -> str:
    """The CSS class of a family; all unknown families have the same one."""
    return f"f-{family}" if family in _SHAPES else "f-other"


def symbols() -> Markup:
    """Definitions of the families' shapes, once per page."""
    paths = "".join(f'<path id="f-{family}" d="{path}"/>' for family, path in _SHAPES.items())
    return Markup(f'<svg width="0" height="0" aria-hidden="true" class="hidden"><defs>{paths}</defs></svg>')


def key(family: str) -> Markup:
    """The symbol of a family, for the text beside its name."""
    kind = css_class(family)
    return Markup(f'<svg class="key {kind}" aria-hidden="true"><use href="#{kind}" x="7" y="7"/></svg>')


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that divide [low, high] into about `count` steps."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def forest_axis(marks: Sequence[Mark]) -> ForestAxis:
    """One axis for all `marks`; it includes zero."""
    low, high = _padded([*_ends(marks), 0.0])
    scale = _scale(low, high, 1.0, 99.0)
    found = tuple((round(scale(tick), 2), _signed(tick)) for tick in ticks(low, high))
    lines = ",".join(
        f"linear-gradient(var({'--soft' if text == '0' else '--line'}) 0 0) {place}% 0/1px 100% no-repeat"
        for place, text in found
    )
    return ForestAxis(found, lines, scale)


def forest_line(mark: Mark, axis: ForestAxis) -> Markup:
    """A method's gain with its interval, without numbers: the page has them as text beside it."""
    kind = css_class(mark.family)
    line = ""
    if mark.low is not None and mark.high is not None:
        line = _line("", axis.scale(mark.low), 11, axis.scale(mark.high), 11)
    return Markup(
        f'<svg class="{kind}" aria-hidden="true">{line}{_use(kind, axis.scale(mark.value), 11)}</svg>'
    )


def scatter(
    marks: Sequence[Mark], title: str, across_label: str, up_label: str, *, front: bool = True
) -> Markup:
    """Scatter of value against cost, with the front. The cost axis is logarithmic if it spans more than 10 times."""
    costs = [mark.cost for mark in marks]
    logarithmic = min(costs) > 0 and max(costs) / min(costs) > 10
    change: Callable[[float], float] = math.log10 if logarithmic else float
    low, high = _padded(_ends(marks) if len(marks) <= _CROWDED else [mark.value for mark in marks])
    first, last = _padded([change(cost) for cost in costs])
    along, up = _scale(first, last, _LEFT, _RIGHT), _scale(low, high, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_frame(title, across_label, up_label), *_levels(ticks(low, high), up)]
    for tick in _costs(first, last) if logarithmic else ticks(first, last):
        parts.append(_foot(along(tick), 10**tick if logarithmic else tick))
    if front:
        parts += _front_lines(_front(marks), lambda mark: (along(change(mark.cost)), up(mark.value)))
    best = _front(marks)
    order = sorted(marks, key=lambda mark: (mark not in best, -mark.value, mark.name))
    if len(order) > _CROWDED:
        order = [replace(mark, low=None, high=None) for mark in order]
    dots = [
        Dot(
            _short(mark.name),
            along(change(mark.cost)),
            up(mark.value),
            *(
                sorted((up(mark.low), up(mark.high)))
                if mark.low is not None and mark.high is not None
                else ()
            ),
        )
        for mark in order
    ]
    for mark, dot, label in zip(order, dots, place_labels(dots, _HEIGHT - _BOTTOM), strict=True):
        kind = css_class(mark.family)
        text = f"{mark.name}: {with_minus(f'{mark.value:.2f} at {mark.cost:.4g}')}"
        parts.append(f'<g class="{kind}" data-m="{escape(mark.method)}"><title>{escape(text)}</title>')
        if dot.top is not None and dot.bottom is not None:
            parts.append(_line("thin", dot.x, dot.top, dot.x, dot.bottom))
        parts.append(_use(kind, dot.x, dot.y))
        if label is not None:
            parts.append(
                f'<text x="{_brief(dot.x)}%" dx="{label.dx:g}" y="{dot.y + label.dy + 4:.0f}" '
                f'text-anchor="{label.anchor}">{escape(dot.name)}</text>'
            )
        parts.append("</g>")
    return Markup("".join(parts) + "</svg>")


def curves(lines: Sequence[Curve], title: str, across_label: str, up_label: str) -> Markup:
    """Curves over 1, 2, 3, … with each curve's name at its end."""
    longest = max(len(line.values) for line in lines)
    low, high = _padded([value for line in lines for value in line.values])
    along, up = _scale(1, max(longest, 2), _LEFT, _CURVES_RIGHT), _scale(low, high, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_frame(title, across_label, up_label), *_levels(ticks(low, high), up)]
    for tick in sorted({max(1, round(tick)) for tick in ticks(1, longest)} | {1}):
        parts.append(_foot(along(tick), tick))
    ends = sorted(lines, key=lambda line: (up(line.values[-1]), line.name))
    heights = _apart([up(line.values[-1]) for line in ends], _LABEL_STEP, _TOP, _HEIGHT - _BOTTOM)
    for line, height in zip(ends, heights, strict=True):
        kind, x, y = css_class(line.family), along(len(line.values)), up(line.values[-1])
        path = " ".join(f"{along(n):.1f},{up(value):.1f}" for n, value in enumerate(line.values, start=1))
        text = (
            f"{line.name}: {line.values[0]:.2f} with one trial, {line.values[-1]:.2f} with {len(line.values)}"
        )
        parts.append(
            f'<g class="{kind}" data-m="{escape(line.name)}"><title>{escape(text)}</title>'
            f'<svg width="100%" height="{_HEIGHT}" viewBox="0 0 100 {_HEIGHT}" preserveAspectRatio="none">'
            f'<polyline points="{path}"/></svg>{_use(kind, x, y)}'
            f"{_line('thin f-baseline', x + 1.5, y, _CURVES_RIGHT + 3.5, height)}"
            f'<text x="{_CURVES_RIGHT + 4}%" y="{height + 4:.0f}">{escape(_short(line.name, 15))}</text></g>'
        )
    return Markup("".join(parts) + "</svg>")


def training_curves(
    bundles: Sequence[Bundle], title: str, across_label: str, up_label: str, *, logarithmic: bool = False
) -> Markup:
    """Values over steps: the lines of each bundle, its main line above them, and its name at the end of that.

    Coordinates are whole numbers, so that a page with hundreds of lines stays small.

    Args:
        bundles: the lines, at least one with two points.
        title: the chart's description.
        across_label: title of the horizontal axis.
        up_label: title of the vertical axis.
        logarithmic: whether the vertical axis is logarithmic; all values must be above 0.
    """
    points = [point for bundle in bundles for line in (*bundle.lines, bundle.main) for point in line]
    change: Callable[[float], float] = math.log10 if logarithmic else float
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    low, high = _padded([change(y) for _, y in points])
    along = _scale(first, max(last, first + 1), _LEFT, _CURVES_RIGHT)
    up = _scale(low, high, _HEIGHT - _BOTTOM, _TOP)
    levels = _costs(low, high) if logarithmic else ticks(low, high)
    parts = [*_frame(title, across_label, up_label), *_levels(levels, up, logarithmic=logarithmic)]
    parts += [_foot(along(tick), tick) for tick in ticks(first, last)]
    # Names of more bundles would leave the chart; they are in the descriptions that a pointer shows.
    named = sorted(
        bundles[: (_HEIGHT - _BOTTOM - _TOP) // _LABEL_STEP], key=lambda b: up(change(b.main[-1][1]))
    )
    heights = _apart([up(change(b.main[-1][1])) for b in named], _LABEL_STEP, _TOP, _HEIGHT - _BOTTOM)
    at = {bundle.name: height for bundle, height in zip(named, heights, strict=True)}
    for bundle in bundles:
        kind, (x, y) = css_class(bundle.family), bundle.main[-1]
        end = along(x), up(change(y))
        thin, main = (
            "".join(_path([(10 * along(x), up(change(y))) for x, y in line]) for line in lines)
            for lines in (bundle.lines, (bundle.main,))
        )
        text = escape(f"{bundle.name}: {with_minus(f'{y:.4g}')} at step {x:.0f}")
        parts.append(
            f'<g class="{kind}" data-m="{escape(bundle.name)}"><title>{text}</title><svg width="100%" height="{_HEIGHT}" '
            f'viewBox="0 0 1000 {_HEIGHT}" preserveAspectRatio="none">'
            f'<path class="seeds" d="{thin}"/><path class="main" d="{main}"/></svg>{_use(kind, *end)}'
        )
        if bundle.name in at:
            height = at[bundle.name]
            parts.append(
                f"{_line('thin f-baseline', end[0] + 1.5, end[1], _CURVES_RIGHT + 3.5, height)}"
                f'<text x="{_CURVES_RIGHT + 4}%" y="{height + 4:.0f}">{escape(_short(bundle.name, 15))}</text>'
            )
        parts.append("</g>")
    return Markup("".join(parts) + "</svg>")


def _path(points: Sequence[tuple[float, float]]) -> str:
    """The points as part of an SVG path, in whole numbers, each relative to the one before it."""
    whole = [(round(x), round(y)) for x, y in points]
    if not whole:
        return ""
    steps = [f"{x2 - x1} {y2 - y1}" for (x1, y1), (x2, y2) in itertools.pairwise(whole)]
    return f"M{whole[0][0]} {whole[0][1]}" + (f"l{' '.join(steps)}" if steps else "h0").replace(" -", "-")


def _frame(title: str, across_label: str, up_label: str) -> Iterator[str]:
    """The beginning of a chart, with the titles of its axes; the vertical one's is above it."""
    yield f'<svg class="chart" width="100%" height="{_HEIGHT}" role="img" aria-label="{escape(title)}">'
    yield f'<text class="axis-title" x="0" y="13">{escape(up_label)}</text>'
    yield f'<text class="axis-title" x="54%" y="{_HEIGHT - 4}" text-anchor="middle">{escape(across_label)}</text>'


def _levels(
    levels: Sequence[float], up: Callable[[float], float], *, logarithmic: bool = False
) -> Iterator[str]:
    """Lines across the chart with their values."""
    for level in levels:
        value = 10**level if logarithmic else level
        yield _line("grid", 0, up(level), 100, up(level))
        yield f'<text class="tick" x="0" y="{up(level) - 4:.0f}">{with_minus(f"{value:.4g}")}</text>'


def _foot(place: float, value: float) -> str:
    text = with_minus(f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}")
    return f'<text class="tick" x="{_brief(place)}%" y="{_HEIGHT - 24}" text-anchor="middle">{text}</text>'


def _costs(first: float, last: float) -> list[float]:
    """Round costs on a logarithmic axis: 1, 2 and 5 of each power of ten."""
    powers = range(math.floor(first), math.ceil(last) + 1)
    found = [power + math.log10(factor) for power in powers for factor in (1, 2, 5)]
    inside = [tick for tick in found if first <= tick <= last]
    return inside if len(inside) <= 6 else [tick for tick in inside if abs(tick - round(tick)) < 1e-9]


def _front(marks: Sequence[Mark]) -> list[Mark]:
    """The Pareto front of what the intervals tell apart, cheapest first.

    A mark belongs to it if its interval is above that of the mark before it. A front of fewer than two marks is empty.
    """
    front: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: (mark.cost, -mark.value, mark.name)):
        if mark.low is None or mark.high is None:
            continue
        if not front or mark.low > (front[-1].high or 0.0):
            front.append(mark)
    return front if len(front) > 1 else []


def _front_lines(front: Sequence[Mark], at: Callable[[Mark], tuple[float, float]]) -> Iterator[str]:
    """The front as a step line."""
    for one, other in itertools.pairwise(front):
        (x1, y1), (x2, y2) = at(one), at(other)
        yield _line("front", x1, y1, x2, y1)
        yield _line("front", x2, y1, x2, y2)
    if front:
        x, y = at(front[-1])
        yield _line("front", x, y, 100, y)


def _apart(heights: Sequence[float], step: float, top: float, bottom: float) -> list[float]:
    """Sorted heights, moved so that they are at least `step` apart and, if they fit, above `bottom`."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + step) if placed else max(height, top))
    floor = bottom
    for place in reversed(range(len(placed))):
        placed[place] = min(placed[place], floor)
        floor = placed[place] - step
    return placed


def _ends(marks: Sequence[Mark]) -> list[float]:
    return [end for mark in marks for end in (mark.value, mark.low, mark.high) if end is not None]


def _use(kind: str, x: float, y: float) -> str:
    return f'<use href="#{kind}" x="{_brief(x)}%" y="{y:.0f}"/>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<line{style} x1="{_brief(x1)}%" y1="{y1:.0f}" x2="{_brief(x2)}%" y2="{y2:.0f}"/>'


def _brief(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad


def _signed(value: float) -> str:
    return "0" if abs(value) < 1e-12 else with_minus(f"{value:+.3g}")


def _short(name: str, limit: int = 20) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
