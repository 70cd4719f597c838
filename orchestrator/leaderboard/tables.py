"""A board's tables as cells of text with values to sort by: the Markdown and the HTML page show the same ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.leaderboard.entries import FAILED, Board, PairSummary, Row
from orchestrator.leaderboard.figures import (
    NOTHING,
    ends,
    estimate,
    gain,
    interval,
    letter,
    number,
    points,
    probability,
    rank,
    signed,
    spread,
)
from orchestrator.leaderboard.published import published_for
from orchestrator.leaderboard.statistics import expected_best

# More cells than this make a page nobody reads; then only the methods at the ends of the board are shown.
_CLASS_CELLS = 1500
_BEST_OF = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class TextTable:
    """A table for people. `keys` holds, by row and column, the number behind a text, or None.

    `methods` names the method that each row is about, or is empty.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: tuple[tuple[float | None, ...], ...] = ()
    methods: tuple[str, ...] = ()
    note: str = ""


def pairs_table(board: Board) -> TextTable:
    """The pairs, with the teacher's and the student's own scores."""
    header = (
        "pair",
        "teacher",
        "student",
        "teacher mIoU",
        "student alone",
        "params (M)",
        "GFLOPs",
        "latency (ms)",
    )
    rows = tuple(
        (
            f"{letter(place)} {pair.pair}",
            pair.teacher,
            pair.student,
            points(pair.teacher_miou),
            estimate(pair.student_miou),
            number(pair.params, 1e-6, 2),
            number(pair.gflops, 1, 2),
            number(pair.latency_ms, 1, 1),
        )
        for place, pair in enumerate(board.pairs)
    )
    return TextTable(header, rows)


def methods_table(board: Board) -> TextTable:
    """The leaderboard itself."""
    header = ["rank", "method", "family", "mIoU", "gain over the student", "gain, test pictures", "p (Holm)"]
    header += ["teacher gap closed", *(f"gain {letter(place)}" for place in range(len(board.pairs)))]
    header += ["params (M)", "GFLOPs", "latency (ms)", "training cost", "GPU-hours", "peak memory (GiB)"]
    header += ["trials", "failures"]
    cells = [_method(board, row) for row in board.rows]
    return TextTable(
        tuple(header),
        tuple(tuple(text for text, _ in line) for line in cells),
        tuple(tuple(key for _, key in line) for line in cells),
        tuple(row.method for row in board.rows),
    )


def _method(board: Board, row: Row) -> list[tuple[str, float | None]]:
    is_baseline = row.method == board.baseline
    gained = "0, by definition" if is_baseline and row.gain is not None else gain(row)
    trials = f"{row.trials_min}" if row.trials_min == row.trials_max else f"{row.trials_min}–{row.trials_max}"
    return [
        (rank(row), row.rank_low),
        (f"{row.method} {row.marks}".strip(), None),
        (row.family, None),
        (NOTHING if row.miou is None else points(row.miou) + interval(row.miou_low, row.miou_high), row.miou),
        (gained, row.gain),
        (NOTHING if is_baseline else ends(row.gain_image_low, row.gain_image_high), row.gain_image_low),
        (probability(row.p_better_than_student), row.p_better_than_student),
        (NOTHING if is_baseline else number(row.teacher_gap_closed, 100, 0, " %"), row.teacher_gap_closed),
        *((signed(row.gain_per_pair.get(p.pair)), row.gain_per_pair.get(p.pair)) for p in board.pairs),
        (spread([pair.params for pair in board.pairs], 1e-6, 2), row.params),
        (spread([pair.gflops for pair in board.pairs], 1, 2), row.gflops),
        (spread([pair.latency_ms for pair in board.pairs], 1, 1), row.latency_ms),
        (number(row.train_cost_relative, 1, 2, " ×"), row.train_cost_relative),
        (number(row.gpu_hours, 1, 2), row.gpu_hours),
        (number(row.peak_memory_bytes, 2**-30, 2), row.peak_memory_bytes),
        (trials, row.trials_max),
        (str(row.failures), row.failures),
    ]


def cells_table(board: Board) -> TextTable:
    """Every method on every pair."""
    rows, methods = [], []
    for pair in board.pairs:
        for row in board.rows:
            cell = board.cells[pair.pair, row.method]
            scored = "" if not cell.scored_as_student else f" {FAILED} {cell.scored_as_student}"
            gained = cell.gain if row.method != board.baseline else None
            closed = cell.gap_closed if row.method != board.baseline else None
            told = signed(gained.mean) + interval(gained.low, gained.high, sign=True) if gained else NOTHING
            closed_text = number(closed, 100, 0, " %")
            seeds = f"{cell.seeds}{scored}"
            counts = str(cell.trials), str(cell.failures)
            rows.append((pair.pair, row.method, estimate(cell.miou), told, closed_text, seeds, *counts))
            methods.append(row.method)
    header = ("pair", "method", "mIoU", "gain", "gap closed", "seeds", "trials", "failures")
    return TextTable(header, tuple(rows), methods=tuple(methods))


def parameters_table(board: Board) -> TextTable:
    """Hyper-parameters of the final runs, flagged where the best value lies at an end of its space."""
    rows, methods = [], []
    for pair in board.pairs:
        for row in board.rows:
            cell = board.cells[pair.pair, row.method]
            for name, value in cell.params.items():
                edge = cell.on_edge.get(name)
                bounds = board.spaces.get(row.method, {}).get(name)
                searched = (
                    f"{bounds[0]:g} to {bounds[1]:g}{' (log)' if bounds[2] else ''}" if bounds else NOTHING
                )
                flag = f"at the {edge} end: widen the space" if edge else ""
                told = value if isinstance(value, str) else json.dumps(value)
                rows.append((pair.pair, row.method, name, told, searched, flag))
                methods.append(row.method)
    header = ("pair", "method", "parameter", "value", "searched", "flag")
    return TextTable(header, tuple(rows), methods=tuple(methods))


def class_table(board: Board, pair: PairSummary) -> TextTable:
    """IoU by class of one pair, one column per method, the teacher first."""
    shown = [row.method for row in board.rows if row.method in pair.class_iou]
    columns, note = shown, ""
    if len(shown) * len(pair.class_names) * len(board.pairs) > _CLASS_CELLS:
        columns = [*shown[:5], *(m for m in shown[5:] if m == board.baseline)]
        note = (
            f"{len(columns)} of {len(shown)} methods are shown; all of them are in the run's table of counts."
        )
    if "teacher" in pair.class_iou:
        columns = ["teacher", *columns]
    rows = tuple(
        (name, *(points(pair.class_iou[method][k]) for method in columns))
        for k, name in enumerate(pair.class_names)
    )
    return TextTable(("class", *columns), rows if columns else (), note=note)


def missing_table(board: Board) -> TextTable:
    """Every place without a score of its own, and why."""
    rows = tuple((m.pair, m.method, ", ".join(map(str, m.seeds)) or "all", m.reason) for m in board.missing)
    return TextTable(("pair", "method", "seeds", "why"), rows, methods=tuple(m.method for m in board.missing))


def beats_table(board: Board) -> TextTable:
    """Holm-adjusted p of every difference; ▲ where the row is surely better than the column, ▼ where worse."""
    ranked = [standing.method for standing in board.comparison.standings]
    rows = []
    for one in ranked:
        cells = []
        for other in ranked:
            p = board.comparison.probabilities.get((one, other))
            sure = "▲ " if (one, other) in board.comparison.surely_better else ""
            sure = "▼ " if (other, one) in board.comparison.surely_better else sure
            cells.append("" if one == other else NOTHING if p is None else f"{sure}{_brief(p)}")
        rows.append((one, *cells))
    header = ("", *(f"{place}" for place in range(1, len(ranked) + 1)))
    rows = [(f"{place} {row[0]}", *row[1:]) for place, row in enumerate(rows, start=1)]
    return TextTable(header, tuple(rows))


def best_of_table(board: Board) -> TextTable:
    """Expected best tune mIoU of n search trials, mean over the pairs that have n for the method."""
    longest = max((len(cell.tuning) for cell in board.cells.values()), default=0)
    counts = [n for n in _BEST_OF if n <= longest]
    rows = []
    for row in board.rows:
        curves = [expected_best(board.cells[pair.pair, row.method].tuning) for pair in board.pairs]
        told = [
            _mean([curve[n - 1] for curve in curves if len(curve) >= n], len(board.pairs)) for n in counts
        ]
        rows.append((row.method, *(points(value) for value in told)))
    header = ("method", *(f"best of {n}" for n in counts))
    return TextTable(header, tuple(rows) if counts else (), methods=tuple(row.method for row in board.rows))


def published_table(board: Board) -> TextTable:
    """Published numbers for the pairs of this board, under other people's recipes."""
    rows = [
        (pair.pair, score.method, score.miou, score.split, score.recipe, score.source)
        for pair in board.pairs
        for score in published_for(board.dataset, pair.teacher, pair.student)
    ]
    return TextTable(("pair", "method", "mIoU", "split", "recipe", "source"), tuple(rows))


def provenance_table(board: Board, commands: Mapping[str, tuple[str, str]]) -> TextTable:
    """Method → code and command behind its rows; `commands` maps a provenance id to (code, command)."""
    rows = [
        (row.method, code, command)
        for row in board.rows
        for code, command in (commands[i] for i in board.provenance.get(row.method, ()))
    ]
    return TextTable(("method", "code", "command"), tuple(rows), methods=tuple(row[0] for row in rows))


def _brief(p: float) -> str:
    return "<.001" if p < 0.001 else "1" if p > 0.995 else f"{p:.2g}".removeprefix("0")


def _mean(values: Sequence[float], needed: int) -> float | None:
    return math.fsum(values) / needed if len(values) == needed else None
