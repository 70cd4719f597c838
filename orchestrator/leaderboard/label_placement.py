"""Places the labels of a scatter so that they do not overlap at any page width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Widths of the chart in pixels, from a phone to a wide column; a label must not overlap at any of them.
_WIDTHS = (330, 420, 520, 640, 780)
_CHARACTER, _HALF_LINE, _HALF_MARK = 6.9, 7, 7

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Dot:
    """A named mark: `x` in per cent of the width, `y` in pixels; its interval is from `top` to `bottom`."""

    name: str
    x: float
    y: float
    top: float | None = None
    bottom: float | None = None


@dataclass(frozen=True)
class Label:
    """Position of a label: offset from its dot in pixels, and the SVG text anchor."""

    dx: float
    dy: float
    anchor: str


_PLACES = tuple(
    Label(dx, dy, anchor) for dy in (0, -11, 11, -20, 20) for dx, anchor in ((10, "start"), (-10, "end"))
)


def place_labels(dots: Sequence[Dot], height: float) -> list[Label | None]:
    """A position for each dot's label; earlier dots choose first; None if every position overlaps something.

    A position that crosses another dot's interval is used only if there is no other.
    """
    found: list[Label | None] = []
    for dot in dots:
        free = [label for label in _PLACES if _is_free(dot, label, dots, found, height)]
        clear = [label for label in free if not _crosses(dot, label, dots)]
        found.append(next(iter(clear or free), None))
    return found


def _is_free(
    dot: Dot, label: Label, dots: Sequence[Dot], placed: Sequence[Label | None], height: float
) -> bool:
    for width in _WIDTHS:
        box = _box(dot, label, width)
        if box[0] < 0 or box[2] > width or box[1] < 0 or box[3] > height:
            return False
        others = [_mark(other, width) for other in dots if other is not dot]
        names = [
            _box(other, place, width) for other, place in zip(dots, placed, strict=False) if place is not None
        ]
        if any(_overlap(box, other) for other in (*others, *names)):
            return False
    return True


def _crosses(dot: Dot, label: Label, dots: Sequence[Dot]) -> bool:
    return any(
        _overlap(_box(dot, label, width), line) for width in _WIDTHS for line in _intervals(dots, dot, width)
    )


def _intervals(dots: Sequence[Dot], but: Dot, width: float) -> Iterator[Box]:
    for dot in dots:
        if dot is not but and dot.top is not None and dot.bottom is not None:
            x = dot.x / 100 * width
            yield x - 1, dot.top, x + 1, dot.bottom


def _box(dot: Dot, label: Label, width: float) -> Box:
    start = dot.x / 100 * width + label.dx
    length = _CHARACTER * len(dot.name)
    left = start if label.anchor == "start" else start - length
    middle = dot.y + label.dy
    return left, middle - _HALF_LINE, left + length, middle + _HALF_LINE


def _mark(dot: Dot, width: float) -> Box:
    x = dot.x / 100 * width
    return x - _HALF_MARK, dot.y - _HALF_MARK, x + _HALF_MARK, dot.y + _HALF_MARK


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
