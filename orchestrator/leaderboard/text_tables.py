"""The tables of a board as text with sort keys, for the Markdown and the HTML page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.leaderboard.comparison import BETTER, WORSE
from orchestrator.leaderboard.entries import FAILED, NEVER_FOUND, Board, BoardRow, Cell, PairSummary
from orchestrator.leaderboard.number_formats import (
    NOTHING,
    ends,
    estimate,
    estimated_gain,
    gain,
    interval,
    letter,
    measure,
    number,
    points,
    probability,
    rank,
    share,
    signed,
)
from orchestrator.leaderboard.published import method_key, published_for
from orchestrator.leaderboard.run_records import ProvenanceRecord
from orchestrator.leaderboard.scores import Estimate
from orchestrator.leaderboard.texts import on_pair_note

# With more cells than this, the table of classes shows only the first methods of the board and the student alone.
_CLASS_CELLS = 1500
_SIZES = ("params (M)", "GFLOPs", "latency (ms)")
_VERSIONS = ("python", "torch", "timm", "ray")
# With fewer finished trials than this, values are more than a tenth of their range apart on average: a best one near an
# end is then no advice to widen the range.
_ENOUGH_TRIALS = 10
_UNFOUND = "∅"
_FIGURES = re.compile(rf"[▲▼]? ?([-+−<]?[\d\[.][-−+±\d.,–\[\] %×/n()a{FAILED}{_UNFOUND}]*|< [\d.]+)?")
SURELY = {BETTER: "▲ ", WORSE: "▼ ", "": ""}
"""The mark of a claim against the student alone."""

UP, DOWN = "up", "down"
"""Tones of a cell: its interval is above zero, or below zero."""


@dataclass(frozen=True)
class TextTable:
    """A table of text. `keys` has the number behind each text, by row and column, or None.

    `methods` has the method of each row; `tones` has `UP`, `DOWN` or "" by row and column. Both may be empty.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: tuple[tuple[float | None, ...], ...] = ()
    methods: tuple[str, ...] = ()
    tones: tuple[tuple[str, ...], ...] = ()
    note: str = ""

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns have only numbers; the page aligns them."""
        return tuple(
            all(row[column] == NOTHING or _FIGURES.fullmatch(row[column]) for row in self.rows)
            for column in range(len(self.header))
        )


Line = list[tuple[str, float | None, str]]
"""A row's cells: text, key, tone."""


def _table(header: Sequence[str], lines: Sequence[Line], methods: Sequence[str]) -> TextTable:
    return TextTable(
        tuple(header),
        tuple(tuple(text for text, _, _ in line) for line in lines),
        tuple(tuple(key for _, key, _ in line) for line in lines),
        tuple(methods),
        tuple(tuple(tone for _, _, tone in line) for line in lines),
    )


def pairs_table(board: Board) -> TextTable:
    """The pairs, with the teacher's and the student's own scores."""
    header = [*("pair", "teacher", "student", "teacher mIoU", "student alone"), *_SIZES]
    rows = tuple(
        (
            f"{letter(place)} {pair.short}",
            pair.teacher,
            pair.student,
            points(pair.teacher_miou),
            estimate(pair.student_miou),
            measure(pair.params, 1e-6),
            measure(pair.gflops),
            measure(pair.latency_ms),
        )
        for place, pair in enumerate(board.pairs)
    )
    full = [f"{letter(n)} is {p.pair}" for n, p in enumerate(board.pairs) if p.short != p.pair]
    note = f"Names in tables and commands: {'; '.join(full)}." if full else ""
    return TextTable(tuple(header), rows, note=note)


def methods_table(board: Board) -> TextTable:
    """The leaderboard itself: each method's scores and the cost of one training run."""
    header = ["rank", "method", "family", "mIoU", "gain over the student", "teacher gap closed"]
    header += [*(f"gain {letter(place)}" for place in range(len(board.pairs))), "training cost"]
    return _table(header, [_method(board, row) for row in board.rows], [row.method for row in board.rows])


def _method(board: Board, row: BoardRow) -> Line:
    is_baseline = row.method == board.baseline
    gained = "0" if is_baseline and row.gain is not None else gain(row)
    cells = [(board.cells[pair.pair, row.method], row.gain_per_pair.get(pair.pair)) for pair in board.pairs]
    return [
        (rank(row), row.rank_low, ""),
        (f"{row.method} {row.marks}".strip(), None, ""),
        (row.family, None, ""),
        (
            NOTHING if row.miou is None else points(row.miou) + interval(row.miou_low, row.miou_high),
            row.miou,
            "",
        ),
        (gained, row.gain, _tone(row.gain_low, row.gain_high)),
        (
            NOTHING
            if is_baseline or row.teacher_gap_closed is None
            else share(row.teacher_gap_closed, row.teacher_gap_closed_low, row.teacher_gap_closed_high),
            row.teacher_gap_closed,
            "",
        ),
        *(
            ("0" if is_baseline and value is not None else signed(value), value, _tone_of(cell.gain))
            for cell, value in cells
        ),
        (number(row.train_cost_relative, 1, 2, " ×"), row.train_cost_relative, ""),
    ]


def costs_table(board: Board) -> TextTable:
    """The evidence and cost of each method: test, seeds, trials, time, memory.

    Parameters, operations and latency depend on the student only, so they are in the table of pairs.
    """
    header = [
        "method",
        "p, against the student",
        "gain, 95 % over test pictures",
        "seeds",
        "trials",
        "failures",
    ]
    header += ["training (s)", board.hours_unit, "peak memory (GiB)"]
    return _table(header, [_cost(board, row) for row in board.rows], [row.method for row in board.rows])


def _cost(board: Board, row: BoardRow) -> Line:
    is_baseline = row.method == board.baseline
    trials = f"{row.trials_min}" if row.trials_min == row.trials_max else f"{row.trials_min}–{row.trials_max}"
    over_pictures = NOTHING if is_baseline else ends(row.gain_image_low, row.gain_image_high)
    return [
        (f"{row.method} {row.marks}".strip(), None, ""),
        (SURELY[row.surely or ""] + probability(row.p_differs_from_student), row.p_differs_from_student, ""),
        (over_pictures, row.gain_image_low, ""),
        (str(row.seeds), row.seeds, ""),
        (trials, row.trials_max, ""),
        (str(row.failures), row.failures, ""),
        (measure(row.train_seconds_alone), row.train_seconds_alone, ""),
        (number(row.gpu_hours, 1, 2), row.gpu_hours, ""),
        (measure(row.peak_memory_bytes, 2**-30), row.peak_memory_bytes, ""),
    ]


def cells_table(board: Board) -> TextTable:
    """Every method on every pair."""
    lines: list[Line] = []
    methods = []
    for pair in board.pairs:
        for row in board.rows:
            cell = board.cells[pair.pair, row.method]
            is_baseline = row.method == board.baseline
            scored = "" if not cell.scored_as_student else f" {FAILED} {cell.scored_as_student}"
            texts = (
                pair.short,
                row.method,
                estimate(cell.miou),
                NOTHING if is_baseline else estimated_gain(cell.gain),
                NOTHING
                if is_baseline or cell.gap_closed is None
                else share(cell.gap_closed.mean, cell.gap_closed.low, cell.gap_closed.high),
                probability(cell.p),
                f"{cell.seeds}{scored}",
                str(cell.trials),
                str(cell.failures),
            )
            tones = ("", "", "", _tone_of(cell.gain), "", "", "", "", "")
            lines.append([(text, None, tone) for text, tone in zip(texts, tones, strict=True)])
            methods.append(row.method)
    header = ("pair", "method", "mIoU", "gain", "gap closed", "p on this pair", "seeds", "trials", "failures")
    found = [cell.p for cell in board.cells.values() if cell.p is not None]
    return replace(_table(header, lines, methods), note=on_pair_note(board, found) if found else "")


def parameters_table(board: Board) -> TextTable:
    """Settings of the final runs, one column per pair; a value at an end of its search space is flagged.

    All settings of a method are listed. The recipe is the same for all methods but for what one of them searches, so only
    that is listed of it.
    """
    rows, methods = [], []
    of_recipe = {name for cell in board.cells.values() for name in cell.drawn}
    for row in board.rows:
        cells = [board.cells[pair.pair, row.method] for pair in board.pairs]
        for name in sorted({name for cell in cells for name in cell.params}):
            if name.startswith("recipe.") and name not in of_recipe:
                continue
            bounds = board.spaces.get(row.method, {}).get(name)
            searched = f"{bounds[0]:g} to {bounds[1]:g}{' (log)' if bounds[2] else ''}" if bounds else NOTHING
            if bounds is None and any(name in cell.drawn for cell in cells):
                searched = "choices"
            rows.append((row.method, name, searched, *(_setting(cell, name) for cell in cells)))
            methods.append(row.method)
    values = [f"on {letter(k)}" for k in range(len(board.pairs))] if len(board.pairs) > 1 else ["value"]
    header = ("method", "parameter", "searched", *values)
    return TextTable(header, tuple(rows), methods=tuple(methods))


def _setting(cell: Cell, name: str) -> str:
    if name not in cell.params:
        return "default" if cell.seeds else NOTHING
    value, drawn = cell.params[name], cell.drawn.get(name)
    text = _value(value)
    if drawn is not None and drawn != value:
        text += f" ({_value(drawn)} × the recipe's)"
    if name not in cell.on_edge:
        return text
    finished = len(cell.tuning)
    advice = (
        ": widen the space"
        if finished >= _ENOUGH_TRIALS
        else f"; {finished} finished trials are too few to advise"
    )
    return f"{text} (at the {cell.on_edge[name]} end{advice})"


def _value(value: object) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


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
        (name, *(_iou(pair.class_iou[method][k]) for method in columns))
        for k, name in enumerate(pair.class_names)
    )
    if any(_UNFOUND in text for row in rows for text in row[1:]):
        note = f"{_UNFOUND} IoU below {100 * NEVER_FOUND:.0f}: the class is practically never found. {note}".strip()
    return TextTable(("class", *columns), rows if columns else (), note=note)


def _iou(value: float) -> str:
    return f"{points(value)} {_UNFOUND}" if value < NEVER_FOUND else points(value)


def missing_table(board: Board) -> TextTable:
    """Every method, pair and seeds without a score of their own, with the reason."""
    rows = tuple(
        (board.short(m.pair), m.method, ", ".join(map(str, m.seeds)) or "all", m.reason)
        for m in board.missing
    )
    return TextTable(("pair", "method", "seeds", "why"), rows, methods=tuple(m.method for m in board.missing))


def published_table(board: Board) -> TextTable:
    """Published scores for the pairs of this board, beside the board's own score of the same method."""
    known = {method_key(row.method): row.method for row in board.rows}
    rows = []
    for place, pair in enumerate(board.pairs):
        for score in published_for(board.dataset, pair.teacher, pair.student):
            mine = board.baseline if score.is_student_alone else known.get(method_key(score.method))
            cell = board.cells.get((pair.pair, mine or ""))
            ours = estimate(cell.miou) if cell else NOTHING
            rows.append(
                (letter(place), score.method, score.miou, ours, score.split, score.recipe, score.source)
            )
    header = ("pair", "method", "published mIoU", "ours", "split", "recipe", "source")
    return TextTable(header, tuple(rows))


def provenance_table(board: Board, known: Mapping[str, ProvenanceRecord]) -> TextTable:
    """Code, command, machine and versions of the rows, with their methods. `known` is the provenance by id."""
    made: dict[tuple[str, ...], list[str]] = {}
    for row in board.rows:
        for record in (known[i] for i in board.provenance.get(row.method, ())):
            code = (record.commit or "unknown")[:12] + (" with uncommitted changes" if record.dirty else "")
            machine = ", ".join(f"{name} {value}" for name, value in sorted(record.hardware.items()))
            versions = ", ".join(f"{n} {record.versions[n]}" for n in _VERSIONS if n in record.versions)
            methods = made.setdefault((code, record.command, machine, versions), [])
            if row.method not in methods:
                methods.append(row.method)
    rows = tuple((", ".join(methods), *origin) for origin, methods in made.items())
    return TextTable(("methods", "commit", "command", "machine", "versions"), rows)


def _tone_of(found: Estimate | None) -> str:
    return _tone(found.low, found.high) if found is not None else ""


def _tone(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    return UP if low > 0 else DOWN if high < 0 else ""
