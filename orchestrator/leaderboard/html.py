"""leaderboard.html: one file that works offline; tables and forest plots read without JavaScript."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from orchestrator.leaderboard.charts import (
    Curve,
    ForestAxis,
    Mark,
    curves,
    forest_axis,
    forest_line,
    key,
    scatter,
    symbols,
)
from orchestrator.leaderboard.comparison import Estimate
from orchestrator.leaderboard.entries import Board, Row
from orchestrator.leaderboard.number_formats import estimated_gain, gain, letter, measure, points
from orchestrator.leaderboard.run_records import RunRecords, TrialRecord
from orchestrator.leaderboard.selected_students import SelectedStudent
from orchestrator.leaderboard.text_tables import (
    TextTable,
    beats_table,
    best_of,
    best_of_table,
    class_table,
    costs_table,
    methods_table,
    missing_table,
    pairs_table,
    parameters_table,
    provenance_table,
    published_table,
)
from orchestrator.leaderboard.texts import (
    HOW_TO_READ,
    board_title,
    legend,
    protocol_line,
    verdict,
)

# The page is to be sent around: trials are shown, finals first, as far as they keep it below so many bytes.
_PAGE_BYTES = 150_000
_LEAST_TRIAL_BYTES = 4_000
# On a longer board each pair's forest plot shows the best so many and the student alone, and says so.
_FOREST_LINES = 15
# More lines than this cannot be told apart; the best are drawn, and the table beside them has all.
_CURVES = 10

_COSTS: tuple[tuple[str, str, Callable[[Row], float | None]], ...] = (
    ("training cost", "training cost (× the student alone)", lambda row: row.train_cost_relative),
    ("peak memory", "peak memory (GiB)", lambda row: _gib(row.peak_memory_bytes)),
)
_SIZES: tuple[tuple[str, str], ...] = (("parameters", "parameters (M)"), ("latency", "latency (ms)"))


@dataclass(frozen=True)
class Forest:
    """A forest plot: one line per method as (method, family, drawing, mIoU, gain)."""

    title: str
    pair: int | None
    axis: ForestAxis
    lines: tuple[tuple[str, str, Markup, str, str], ...]


@dataclass(frozen=True)
class View:
    """What the template shows of one board."""

    id: str
    title: str
    protocol: tuple[str, ...]
    verdict: str
    notes: tuple[str, ...]
    legend: str
    families: tuple[tuple[str, Markup], ...]
    pair_names: tuple[str, ...]
    pairs: TextTable
    cards: tuple[SelectedStudent, ...]
    methods: TextTable
    costs: TextTable
    family_of: Mapping[str, str]
    forest: Forest | None
    forests: tuple[Forest, ...]
    forests_note: str
    costs_drawn: tuple[tuple[str, Markup], ...]
    spent: Markup | None
    curves: Markup | None
    curves_note: str
    best_of: TextTable
    beats: TextTable
    classes: tuple[tuple[str, TextTable], ...]
    parameters: TextTable
    published: TextTable
    provenance: TextTable
    missing: TextTable


def leaderboard_html(
    boards: Sequence[Board],
    evidence: RunRecords,
    records: Sequence[Mapping[str, Any]],
    best: Sequence[SelectedStudent],
    command: str,
    *,
    with_gallery: bool = False,
) -> str:
    """The whole page.

    `records` are the rows as the files hold them, `best` the students that have model cards, `command` is the one
    that made the page, and `with_gallery` tells that a gallery lies beside it.
    """
    views = [
        _view(place, board, evidence, [s for s in best if s.board is board], several=len(boards) > 1)
        for place, board in enumerate(boards)
    ]
    template = templates().get_template("leaderboard.html.j2")
    table = _table(records)

    def page(bytes_of_trials: int) -> str:
        data = [_data(board, evidence, bytes_of_trials) for board in boards]
        return template.render(
            boards=views,
            facts=HOW_TO_READ,
            command=command,
            with_gallery=with_gallery,
            symbols=symbols(),
            key=key,
            data=_embedded({"table": table, "boards": data}),
        )

    room = _PAGE_BYTES - len(page(0).encode())
    return page(max(room // max(len(boards), 1), _LEAST_TRIAL_BYTES))


def templates() -> jinja2.Environment:
    """The templates of the pages; whatever they are given is text to them."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator.leaderboard"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _view(
    place: int, board: Board, evidence: RunRecords, cards: Sequence[SelectedStudent], *, several: bool
) -> View:
    classes = [(pair.pair, class_table(board, pair)) for pair in board.pairs]
    drawn, note = _curves(board)
    return View(
        id=f"b{place}",
        title=board_title(board, several),
        protocol=tuple(protocol_line(board).split(" · ")),
        verdict=verdict(board),
        notes=board.notes,
        legend=legend(board),
        families=tuple((family, key(family)) for family in sorted({row.family for row in board.rows})),
        pair_names=tuple(pair.pair for pair in board.pairs),
        pairs=pairs_table(board),
        cards=tuple(cards),
        methods=methods_table(board),
        costs=costs_table(board),
        family_of={row.method: row.family for row in board.rows},
        forest=_forest(board),
        forests=_forests(board) if len(board.pairs) > 1 else (),
        forests_note=_forests_note(board),
        costs_drawn=tuple(_against_costs(board)),
        spent=_against_hours(board),
        curves=drawn,
        curves_note=note,
        best_of=best_of_table(board),
        beats=beats_table(board),
        classes=tuple((name, table) for name, table in classes if table.rows),
        parameters=parameters_table(board),
        published=published_table(board),
        provenance=provenance_table(board, evidence.provenance),
        missing=missing_table(board),
    )


def _forest(board: Board) -> Forest | None:
    """Every method's gain over the student alone, mean over the pairs."""
    rows = [(row, row.gain) for row in board.rows if row.gain is not None]
    marks = [_mark(row, value, row.gain_low, row.gain_high) for row, value in rows]
    if not marks:
        return None
    axis = forest_axis(marks)
    lines = tuple(
        (row.method, row.family, forest_line(mark, axis), points(row.miou), _told(board, row, gain(row)))
        for (row, _), mark in zip(rows, marks, strict=True)
    )
    return Forest("Mean over pairs" if len(board.pairs) > 1 else board.pairs[0].pair, None, axis, lines)


def _forests(board: Board) -> tuple[Forest, ...]:
    """The same on each pair, all on one scale and in the board's order."""
    found: list[list[tuple[Row, Estimate, Estimate]]] = []
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
            f"{letter(place)} {pair.pair}",
            place,
            axis,
            tuple(
                (
                    row.method,
                    row.family,
                    forest_line(mark, axis),
                    points(miou.mean),
                    _told(board, row, estimated_gain(found_gain)),
                )
                for (row, found_gain, miou), mark in zip(lines, drawn, strict=True)
            ),
        )
        for place, (pair, lines, drawn) in enumerate(zip(board.pairs, found, marks, strict=True))
        if lines
    )


def _forests_note(board: Board) -> str:
    if len(board.rows) <= _FOREST_LINES + 1:
        return ""
    return (
        f"The best {_FOREST_LINES} of {len(board.rows)} methods and the student alone; all of them stand in the "
        "table above and in LEADERBOARD.md."
    )


def _mark(row: Row, value: float, low: float | None, high: float | None) -> Mark:
    return Mark(row.method, row.family, 100 * value, _points(low), _points(high))


def _told(board: Board, row: Row, text: str) -> str:
    return "0" if row.method == board.baseline else text


def _against_costs(board: Board) -> list[tuple[str, Markup]]:
    """mIoU against each cost that two methods have, and against the size of each pair's student."""
    found = []
    for name, label, cost in _COSTS:
        marks = [
            Mark(row.method, row.family, 100 * row.miou, _points(row.miou_low), _points(row.miou_high), spent)
            for row in board.rows
            if row.miou is not None and (spent := cost(row)) is not None
        ]
        if len({measure(mark.cost) for mark in marks}) > 1:
            found.append((name, scatter(marks, f"mIoU against {name}", label)))
    for name, label in _SIZES:
        marks = _students(board, name)
        if len({mark.cost for mark in marks}) > 1:
            found.append((name, scatter(marks, f"mIoU of each pair's students against {name}", label)))
    return found


def _students(board: Board, size: str) -> list[Mark]:
    """On each pair the student alone and the best method, by the student's size."""
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


def _against_hours(board: Board) -> Markup | None:
    """Gain against all that was spent on a method, search included."""
    marks = [
        Mark(
            row.method,
            row.family,
            100 * row.gain,
            _points(row.gain_low),
            _points(row.gain_high),
            row.gpu_hours,
        )
        for row in board.rows
        if row.gain is not None and row.gpu_hours is not None
    ]
    if len({measure(mark.cost) for mark in marks}) < 2:
        return None
    return scatter(
        marks, f"Gain against {board.hours_unit}", f"{board.hours_unit} spent on all trials, search included"
    )


def _curves(board: Board) -> tuple[Markup | None, str]:
    """Expected best of n trials, of the best methods and the student alone; and what is left out."""
    found = best_of(board)
    families = {row.method: row.family for row in board.rows}
    if max((len(values) for values in found.values()), default=0) < 2:
        return None, ""
    shown = [*list(found)[:_CURVES], *(m for m in list(found)[_CURVES:] if m == board.baseline)]
    lines = [Curve(m, families[m], tuple(100 * value for value in found[m])) for m in shown]
    note = f"Drawn: {len(shown)} of {len(found)} methods. " if len(shown) < len(found) else ""
    return curves(lines, "Expected best tune mIoU of n search trials", "search trials n"), note


def _data(board: Board, evidence: RunRecords, bytes_of_trials: int) -> dict[str, Any]:
    """Trials for the page's script: names once, rows as short lists."""
    methods = [row.method for row in board.rows]
    pairs = [pair.pair for pair in board.pairs]
    recipes = {pair.pair: pair.recipe for pair in board.pairs}
    mine = [
        trial
        for trial in evidence.trials
        if trial.phase != "teacher"
        and (trial.dataset, trial.protocol) == (board.dataset, board.protocol)
        and recipes.get(trial.pair) == trial.recipe_hash
    ]
    mine.sort(key=lambda t: (t.phase != "final", -(t.tune_miou or 0.0), t.trial_id))
    names = sorted({name for trial in mine for name in trial.params})
    return {
        "methods": methods,
        "pairs": pairs,
        "params": names,
        "total": len(mine),
        "trials": _first([_trial(trial, methods, pairs, names) for trial in mine], bytes_of_trials),
    }


def _trial(trial: TrialRecord, methods: list[str], pairs: list[str], names: list[str]) -> list[Any]:
    params = {names.index(name): value for name, value in trial.params.items()}
    return [
        trial.trial_id,
        methods.index(trial.method),
        pairs.index(trial.pair),
        trial.phase[:1],
        trial.status[0],
        trial.seed,
        _brief(trial.tune_miou),
        _brief(trial.test_miou),
        {str(place): float(f"{v:.4g}") if isinstance(v, float) else v for place, v in params.items()},
    ]


def _first(rows: Sequence[list[Any]], limit: int) -> list[list[Any]]:
    """The first rows, as many as `limit` bytes of JSON hold."""
    shown, used = [], 0
    for row in rows:
        used += len(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()) + 1
        if used > limit:
            break
        shown.append(row)
    return shown


def _table(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The written rows, numbers as the very text that the files hold, so that downloads can be equal to them."""
    columns = list(records[0]) if records else []
    return {
        "columns": columns,
        "text": [any(isinstance(record[name], str) for record in records) for name in columns],
        "rows": [
            [None if value is None else value if isinstance(value, str) else repr(value) for value in row]
            for row in (list(record.values()) for record in records)
        ],
    }


def _embedded(value: Any) -> Markup:
    """JSON for a script element: no `<`, so nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _points(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _brief(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)


def _gib(value: int | None) -> float | None:
    return None if value is None else value / 2**30
