"""The charts of a board: forest plots, scatters against costs, and curves of the search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from orchestrator.leaderboard.charts import (
    Curve,
    ForestAxis,
    Mark,
    curves,
    forest_axis,
    forest_line,
    scatter,
)
from orchestrator.leaderboard.comparison_tables import best_of, best_of_note
from orchestrator.leaderboard.entries import Board, BoardRow
from orchestrator.leaderboard.number_formats import estimated_gain, gain, letter, measure, points
from orchestrator.leaderboard.scores import Estimate

# Number of methods in the forest plots of single pairs; on a longer board these show the best and the student alone.
_FOREST_LINES = 15
# Number of curves in one chart; more cannot be distinguished. The table beside the chart has all of them.
_CURVES = 10
_MIOU = "test mIoU (points)"

_COSTS: tuple[tuple[str, str, Callable[[BoardRow], float | None]], ...] = (
    ("training cost", "training cost (× the student alone)", lambda row: row.train_cost_relative),
    ("peak memory", "peak memory (GiB)", lambda row: _gib(row.peak_memory_bytes)),
)
_SIZES: tuple[tuple[str, str], ...] = (("parameters", "parameters (M)"), ("latency", "latency (ms)"))


@dataclass(frozen=True)
class Forest:
    """A forest plot; each line is (method, family, drawing, mIoU, gain)."""

    title: str
    pair: int | None
    axis: ForestAxis
    lines: tuple[tuple[str, str, Markup, str, str], ...]


def forest(board: Board) -> Forest | None:
    """Forest plot of every method's gain over the student alone, mean over the pairs; None if there is no gain."""
    rows = [(row, row.gain) for row in board.rows if row.gain is not None]
    marks = [_mark(row, value, row.gain_low, row.gain_high) for row, value in rows]
    if not marks:
        return None
    axis = forest_axis(marks)
    lines = tuple(
        (row.method, row.family, forest_line(mark, axis), points(row.miou), _gain_text(board, row, gain(row)))
        for (row, _), mark in zip(rows, marks, strict=True)
    )
    return Forest("Mean over pairs" if len(board.pairs) > 1 else board.pairs[0].short, None, axis, lines)


def forests(board: Board) -> tuple[Forest, ...]:
    """A forest plot for each pair, all on one scale and in the board's order."""
    found: list[list[tuple[BoardRow, Estimate, Estimate]]] = []
    rows = [
        row for place, row in enumerate(board.rows) if place < _FOREST_LINES or row.method == board.baseline
    ]
    for pair in board.pairs:
        cells = [(row, board.cells[pair.pair, row.method]) for row in rows]
        found.append([(row, cell.gain, cell.miou) for row, cell in cells if cell.gain and cell.miou])
    marks = [[_mark(row, g.mean, g.low, g.high) for row, g, _ in lines] for lines in found]
    if not any(marks):
        return ()
    axis = forest_axis([mark for lines in marks for mark in lines])
    return tuple(
        Forest(
            f"{letter(place)} {pair.short}",
            place,
            axis,
            tuple(
                (
                    row.method,
                    row.family,
                    forest_line(mark, axis),
                    points(miou.mean),
                    _gain_text(board, row, estimated_gain(found_gain)),
                )
                for (row, found_gain, miou), mark in zip(lines, drawn, strict=True)
            ),
        )
        for place, (pair, lines, drawn) in enumerate(zip(board.pairs, found, marks, strict=True))
        if lines
    )


def forests_note(board: Board) -> str:
    """Sentence about the methods that the forest plots of single pairs leave out; empty if they show all."""
    if len(board.rows) <= _FOREST_LINES + 1:
        return ""
    return (
        f"The best {_FOREST_LINES} of {len(board.rows)} methods and the student alone; all of them stand in the "
        "table above and in LEADERBOARD.md."
    )


def _mark(row: BoardRow, value: float, low: float | None, high: float | None) -> Mark:
    return Mark(row.method, row.family, 100 * value, _points(low), _points(high))


def _gain_text(board: Board, row: BoardRow, text: str) -> str:
    return "0" if row.method == board.baseline else text


def against_costs(board: Board) -> list[tuple[str, Markup]]:
    """Charts of mIoU against each cost for which methods differ, and against the size of each pair's student."""
    found = []
    for name, label, cost in _COSTS:
        marks = [
            Mark(row.method, row.family, 100 * row.miou, _points(row.miou_low), _points(row.miou_high), spent)
            for row in board.rows
            if row.miou is not None and (spent := cost(row)) is not None
        ]
        if len({measure(mark.cost) for mark in marks}) > 1:
            found.append((name, scatter(marks, f"mIoU against {name}", label, _MIOU)))
    for name, label in _SIZES:
        marks = _students(board, name)
        if len({mark.cost for mark in marks}) > 1:
            found.append((name, scatter(marks, f"mIoU of each pair's students against {name}", label, _MIOU)))
    return found


def _students(board: Board, size: str) -> list[Mark]:
    """Marks of the student alone and the best method of each pair, with the size of the student as cost."""
    marks = []
    for place, pair in enumerate(board.pairs):
        cost = (pair.params / 1e6 if pair.params else None) if size == "parameters" else pair.latency_ms
        scored = [(row, board.cells[pair.pair, row.method].miou) for row in board.rows]
        known = [(row, miou) for row, miou in scored if miou is not None]
        best = max(known, key=lambda found: found[1].mean, default=None)
        shown = [found for found in known if found is best or found[0].method == board.baseline]
        for row, miou in shown if cost is not None else ():
            name = f"{letter(place)} {row.method}"
            ends = _points(miou.low), _points(miou.high)
            marks.append(Mark(name, row.family, 100 * miou.mean, *ends, cost or 0.0, about=row.method))
    return marks


def against_hours(board: Board) -> Markup | None:
    """Chart of gain against the hours of all trials of a method, search included; None if no two hours differ."""
    marks = [
        Mark(
            row.method,
            row.family,
            100 * row.gain,
            # The gain of the student itself is 0 without noise, so that the front can begin with it.
            0.0 if row.method == board.baseline else _points(row.gain_low),
            0.0 if row.method == board.baseline else _points(row.gain_high),
            row.gpu_hours,
        )
        for row in board.rows
        if row.gain is not None and row.gpu_hours is not None
    ]
    if len({measure(mark.cost) for mark in marks}) < 2:
        return None
    return scatter(
        marks,
        f"Gain against {board.hours_unit}",
        f"{board.hours_unit} spent on all trials, search included",
        "gain (points of mIoU)",
    )


def search_curves(board: Board) -> tuple[Markup | None, str]:
    """Chart of the expected best of n trials, None if it is not given, and why methods are left out."""
    found = best_of(board)
    families = {row.method: row.family for row in board.rows}
    if max((len(values) for values in found.values()), default=0) < 2:
        return None, best_of_note(board)
    shown = [*list(found)[:_CURVES], *(m for m in list(found)[_CURVES:] if m == board.baseline)]
    lines = [Curve(m, families[m], tuple(100 * value for value in found[m])) for m in shown]
    note = f"Drawn: {len(shown)} of {len(found)} methods. " if len(shown) < len(found) else ""
    note = f"{best_of_note(board)} {note}".strip()
    return curves(
        lines, "Expected best tune mIoU of n search trials", "search trials n", "tune mIoU (points)"
    ), note


def _points(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _gib(value: int | None) -> float | None:
    return None if value is None else value / 2**30
