"""LEADERBOARD.md: the boards as Markdown tables, with what a reader must know to read them."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Sequence

from orchestrator.leaderboard.comparison import Estimate
from orchestrator.leaderboard.entries import FAILED, OFF_PROTOCOL, UNCOMMITTED, Board, PairSummary, Row
from orchestrator.leaderboard.phrases import (
    HOW_TO_READ,
    gain,
    interval,
    protocol_line,
    rank,
    signed,
    verdict,
)

_NOTHING = "–"


def leaderboard_markdown(boards: Sequence[Board], command: Sequence[str]) -> str:
    """The whole page. `command` is the one that made it."""
    lines = ["# Leaderboard"]
    if not boards:
        lines += ["", "No trial of a method is recorded yet."]
    for board in boards:
        lines += ["", *_board(board, several=len(boards) > 1)]
    if boards:
        lines += ["", "## How to read this", "", *(f"- {fact}" for fact in HOW_TO_READ)]
    lines += ["", "## Reproduce", "", "This page:", "", *_code(shlex.join(command))]
    for told in dict.fromkeys(command for board in boards for command in board.commands if command):
        lines += ["", "The runs behind it:", "", *_code(told)]
    return "\n".join(lines) + "\n"


def _board(board: Board, several: bool) -> Iterable[str]:
    recipes = ", ".join(f"{pair.pair}: {pair.recipe}" for pair in board.pairs)
    title = f"{board.dataset} · {board.protocol}" + (f" · recipe {recipes}" if several else "")
    yield f"## {_text(title)}"
    yield from ("", protocol_line(board), "", f"**{_text(verdict(board))}**")
    for note in board.notes:
        yield from ("", f"> {_text(note)}")
    yield from ("", "### Pairs", "", *_pairs(board))
    yield from ("", "### Methods", "", *_methods(board), "", _legend(board))
    yield from ("", "### Gain on each pair", "", *_cells(board))
    yield from ("", "### Hyper-parameters of the final runs", "", *_parameters(board))
    yield from _classes(board)
    yield from ("", "### Missing entries", "", *_missing(board))


def _pairs(board: Board) -> list[str]:
    header = [
        "pair",
        "teacher",
        "student",
        "teacher mIoU",
        "student alone",
        "params (M)",
        "GFLOPs",
        "latency (ms)",
    ]
    return _table(
        header,
        [
            [
                f"{_letter(place)} {pair.pair}",
                pair.teacher,
                pair.student,
                _points(pair.teacher_miou),
                _estimate(pair.student_miou),
                _number(pair.params, 1e-6, 2),
                _number(pair.gflops, 1, 2),
                _number(pair.latency_ms, 1, 1),
            ]
            for place, pair in enumerate(board.pairs)
        ],
    )


def _methods(board: Board) -> list[str]:
    header = ["rank", "method", "family", "mIoU", "gain over the student", "gain, test pictures", "p (Holm)"]
    header += ["teacher gap closed", *(f"gain {_letter(place)}" for place in range(len(board.pairs)))]
    header += ["params (M)", "GFLOPs", "latency (ms)", "training cost", "GPU-hours", "peak memory (GiB)"]
    header += ["trials", "failures"]
    return _table(header, [_method(board, row) for row in board.rows])


def _method(board: Board, row: Row) -> list[str]:
    is_baseline = row.method == board.baseline
    return [
        rank(row),
        f"{row.method} {row.marks}".strip(),
        row.family,
        _NOTHING if row.miou is None else _points(row.miou) + interval(row.miou_low, row.miou_high),
        "0, by definition" if is_baseline and row.gain is not None else gain(row),
        _NOTHING if is_baseline else _ends(row.gain_image_low, row.gain_image_high),
        _probability(row.p_better_than_student),
        _NOTHING if is_baseline else _number(row.teacher_gap_closed, 100, 0, " %"),
        *(signed(row.gain_per_pair.get(pair.pair)) for pair in board.pairs),
        _spread([pair.params for pair in board.pairs], 1e-6, 2),
        _spread([pair.gflops for pair in board.pairs], 1, 2),
        _spread([pair.latency_ms for pair in board.pairs], 1, 1),
        _number(row.train_cost_relative, 1, 2, " ×"),
        _number(row.gpu_hours, 1, 2),
        _number(row.peak_memory_bytes, 2**-30, 2),
        str(row.trials_min) if row.trials_min == row.trials_max else f"{row.trials_min}–{row.trials_max}",
        str(row.failures),
    ]


def _legend(board: Board) -> str:
    marks = "".join(row.marks for row in board.rows)
    told = [
        "mIoU and gains in points, means over pairs and seeds with 95 % intervals; n/a: one seed gives no "
        "interval",
        "training cost: seconds of one final run trained alone, teacher's forward included, over the "
        "student's",
    ]
    if FAILED in marks:
        told.append(f"{FAILED} failed final runs are scored as the student alone with the same seed")
    if OFF_PROTOCOL in marks:
        told.append(f"{OFF_PROTOCOL} off the protocol (not leakage-free), not ranked")
    if UNCOMMITTED in marks:
        told.append(f"{UNCOMMITTED} made with uncommitted code")
    return " · ".join(told) + "."


def _cells(board: Board) -> list[str]:
    rows = []
    for pair in board.pairs:
        for row in board.rows:
            cell = board.cells[pair.pair, row.method]
            scored = "" if not cell.scored_as_student else f" {FAILED} {cell.scored_as_student}"
            gained = cell.gain if row.method != board.baseline else None
            closed = cell.gap_closed if row.method != board.baseline else None
            rows.append(
                [
                    pair.pair,
                    row.method,
                    _estimate(cell.miou),
                    signed(gained.mean) + interval(gained.low, gained.high, sign=True)
                    if gained
                    else _NOTHING,
                    _number(closed, 100, 0, " %"),
                    f"{cell.seeds}{scored}",
                    str(cell.trials),
                    str(cell.failures),
                ]
            )
    return _table(["pair", "method", "mIoU", "gain", "gap closed", "seeds", "trials", "failures"], rows)


def _parameters(board: Board) -> list[str]:
    rows = []
    for pair in board.pairs:
        for row in board.rows:
            cell = board.cells[pair.pair, row.method]
            for name, value in cell.params.items():
                edge = cell.on_edge.get(name)
                bounds = board.spaces.get(row.method, {}).get(name)
                searched = (
                    f"{bounds[0]:g} to {bounds[1]:g}{' (log)' if bounds[2] else ''}" if bounds else _NOTHING
                )
                flag = f"at the {edge} end: widen the space" if edge else ""
                told = value if isinstance(value, str) else json.dumps(value)
                rows.append([pair.pair, row.method, name, told, searched, flag])
    if not rows:
        return ["No final run has hyper-parameters."]
    return _table(["pair", "method", "parameter", "value", "searched", "flag"], rows)


def _classes(board: Board) -> Iterable[str]:
    for pair in board.pairs:
        methods = [row.method for row in board.rows if row.method in pair.class_iou]
        if "teacher" in pair.class_iou:
            methods = ["teacher", *methods]
        if methods:
            yield from ("", f"### IoU by class: {_text(pair.pair)}", "", *_class_table(pair, methods))


def _class_table(pair: PairSummary, methods: Sequence[str]) -> list[str]:
    rows = [
        [name, *(_points(pair.class_iou[method][k]) for method in methods)]
        for k, name in enumerate(pair.class_names)
    ]
    return _table(["class", *methods], rows)


def _missing(board: Board) -> list[str]:
    if not board.missing:
        return ["None: every planned final run has a score of its own."]
    rows = [[m.pair, m.method, ", ".join(map(str, m.seeds)) or "all", m.reason] for m in board.missing]
    return _table(["pair", "method", "seeds", "why"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *([_text(cell) for cell in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _text(value: str) -> str:
    """Text as a table cell or paragraph takes it: no line breaks, no markup."""
    cleaned = " ".join(value.split())
    for character in "\\|<>`*":
        cleaned = cleaned.replace(character, "\\" + character)
    return cleaned.replace("](", "]\\(")


def _code(text: str) -> list[str]:
    return ["```sh", text.replace("```", "'''"), "```"]


def _letter(place: int) -> str:
    """A, B, …, Z, AA, …: short names of pairs in the table's header."""
    letters = ""
    place += 1
    while place:
        place, rest = divmod(place - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def _points(value: float | None) -> str:
    return _number(value, 100, 2)


def _estimate(estimate: Estimate | None) -> str:
    return _NOTHING if estimate is None else _points(estimate.mean) + interval(estimate.low, estimate.high)


def _ends(low: float | None, high: float | None) -> str:
    return _NOTHING if low is None else interval(low, high, sign=True).strip()


def _probability(value: float | None) -> str:
    if value is None:
        return _NOTHING
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _number(value: float | None, factor: float, digits: int, unit: str = "") -> str:
    return _NOTHING if value is None or math.isnan(value) else f"{value * factor:.{digits}f}{unit}"


def _spread(values: Sequence[float | None], factor: float, digits: int) -> str:
    """One number, or the range over pairs."""
    told = list(dict.fromkeys(_number(v, factor, digits) for v in sorted(v for v in values if v is not None)))
    if not told or len(told) == 1:
        return told[0] if told else _NOTHING
    return f"{told[0]}–{told[-1]}"
