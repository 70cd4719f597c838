"""leaderboard.html: one file that works offline; tables and forest plots need no JavaScript."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from orchestrator.leaderboard.board_charts import (
    Forest,
    against_costs,
    against_hours,
    forest,
    forests,
    forests_note,
    search_curves,
)
from orchestrator.leaderboard.charts import key, symbols
from orchestrator.leaderboard.comparison_tables import best_of_table, differences_table, side_by_side
from orchestrator.leaderboard.entries import Board
from orchestrator.leaderboard.run_records import RunRecords, TrialRecord
from orchestrator.leaderboard.selected_students import SelectedStudent
from orchestrator.leaderboard.text_tables import (
    TextTable,
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
    conditions,
    evidence_note,
    legend,
    noise,
    protocol_line,
    resolution,
    runs_title,
    verdict,
)
from orchestrator.leaderboard.training_curves import PairCurves, TrialCurve, pair_curves, points_per_line
from orchestrator.leaderboard.unfinished import Unfinished

# Upper limit of the page's size, so that it can be sent by mail: as many trials are listed as fit, final runs first.
_PAGE_BYTES = 170_000
_LEAST_TRIAL_BYTES = 4_000


@dataclass(frozen=True)
class View:
    """The values that the template shows of one board."""

    id: str
    title: str
    protocol: tuple[str, ...]
    verdict: str
    conditions: str
    resolution: str
    notes: tuple[str, ...]
    legend: str
    noise: str
    evidence_note: str
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
    training: tuple[PairCurves, ...]
    costs_drawn: tuple[tuple[str, Markup], ...]
    spent: Markup | None
    curves: Markup | None
    curves_note: str
    best_of: TextTable
    differences: TextTable
    classes: tuple[tuple[str, TextTable], ...]
    parameters: TextTable
    published: TextTable
    provenance: TextTable
    missing: TextTable


def leaderboard_html(
    boards: Sequence[Board],
    records: RunRecords,
    rows: Sequence[Mapping[str, Any]],
    best: Sequence[SelectedStudent],
    command: str,
    *,
    curves: Sequence[TrialCurve] = (),
    unfinished: Unfinished | None = None,
    with_gallery: bool = False,
) -> str:
    """The whole page.

    Args:
        boards: the boards, in order.
        records: the tables behind them.
        rows: the rows as the CSV, JSON and Parquet files have them.
        best: the students that have model cards.
        command: the command that makes the page.
        curves: scores and losses of the trainings that have ended.
        unfinished: what is still to come; None for a finished run.
        with_gallery: whether there is a gallery.html in the same folder.
    """
    curves = (*curves, *(unfinished.running if unfinished else ()))
    points = points_per_line(curves)
    mine = [_curves_of(board, records, curves) for board in boards]
    drawn = [_drawn_curves(board, found, points) for board, found in zip(boards, mine, strict=True)]
    several = len(boards) > 1
    views = [
        _view(place, board, records, [s for s in best if s.board is board], drawn[place], several=several)
        for place, board in enumerate(boards)
    ]
    elsewhere = {curve.trial_id for found in mine for curve in found}
    first = [curve for curve in curves if curve.trial_id not in elsewhere]
    names = {**(unfinished.short_pairs if unfinished else {}), **records.short_pairs}
    first_curves = _drawn_pairs(sorted({curve.pair for curve in first}), first, (), points, names)
    template, table = templates().get_template("leaderboard.html.j2"), _table(rows)

    def page(bytes_of_trials: int) -> str:
        data = [_data(board, records, bytes_of_trials) for board in boards]
        return template.render(
            title=runs_title(records),
            boards=views,
            side_by_side=side_by_side(boards),
            facts=HOW_TO_READ,
            command=command,
            with_gallery=with_gallery,
            unfinished=unfinished.sentence(records) if unfinished else "",
            live=unfinished.live if unfinished else None,
            first_curves=first_curves,
            symbols=symbols(),
            key=key,
            data=_embedded({"table": table, "boards": data}),
        )

    free_bytes = _PAGE_BYTES - len(page(0).encode())
    return page(max(free_bytes // max(len(boards), 1), _LEAST_TRIAL_BYTES))


def templates() -> jinja2.Environment:
    """The environment of the page templates; values are escaped as text."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator.leaderboard"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _curves_of(board: Board, records: RunRecords, curves: Sequence[TrialCurve]) -> list[TrialCurve]:
    """The curves of the board's trials, and those of running trials of its studies."""
    ids = {trial.trial_id for trial in _trials_of(board, records)}
    recorded = {trial.trial_id for trial in records.trials}
    studies = {
        (board.compare, board.dataset, pair.pair, row.method) for pair in board.pairs for row in board.rows
    }
    return [
        curve
        for curve in curves
        if curve.trial_id in ids
        or (
            curve.trial_id not in recorded
            and curve.phase != "teacher"
            and (curve.compare, curve.dataset, curve.pair, curve.method) in studies
        )
    ]


def _drawn_curves(board: Board, curves: Sequence[TrialCurve], points: int) -> tuple[PairCurves, ...]:
    return _drawn_pairs(
        [pair.pair for pair in board.pairs],
        curves,
        [row.method for row in board.rows],
        points,
        {pair.pair: pair.short for pair in board.pairs},
    )


def _drawn_pairs(
    pairs: Sequence[str],
    curves: Sequence[TrialCurve],
    order: Sequence[str],
    points: int,
    names: Mapping[str, str],
) -> tuple[PairCurves, ...]:
    drawn = (
        pair_curves(
            pair, [c for c in curves if c.pair == pair], order, points, len(pairs), names.get(pair, pair)
        )
        for pair in pairs
    )
    return tuple(found for found in drawn if found is not None)


def _view(
    place: int,
    board: Board,
    records: RunRecords,
    cards: Sequence[SelectedStudent],
    training: tuple[PairCurves, ...],
    *,
    several: bool,
) -> View:
    classes = [(pair.short, class_table(board, pair)) for pair in board.pairs]
    drawn, note = search_curves(board)
    return View(
        id=f"b{place}",
        title=board_title(board, several),
        protocol=tuple(protocol_line(board).split(" · ")),
        verdict=verdict(board),
        conditions=conditions(board),
        resolution=resolution(board),
        notes=board.notes,
        legend=legend(board),
        noise=noise(board),
        evidence_note=evidence_note(board),
        families=tuple((family, key(family)) for family in sorted({row.family for row in board.rows})),
        pair_names=tuple(pair.pair for pair in board.pairs),
        pairs=pairs_table(board),
        cards=tuple(cards),
        methods=methods_table(board),
        costs=costs_table(board),
        family_of={row.method: row.family for row in board.rows},
        forest=forest(board),
        forests=forests(board) if len(board.pairs) > 1 else (),
        forests_note=forests_note(board),
        training=training,
        costs_drawn=tuple(against_costs(board)),
        spent=against_hours(board),
        curves=drawn,
        curves_note=note,
        best_of=best_of_table(board),
        differences=differences_table(board),
        classes=tuple((name, table) for name, table in classes if table.rows),
        parameters=parameters_table(board),
        published=published_table(board),
        provenance=provenance_table(board, records.provenance),
        missing=missing_table(board),
    )


def _data(board: Board, records: RunRecords, bytes_of_trials: int) -> dict[str, Any]:
    """The trials for the page's script. Rows are short lists with indices of methods, pairs and parameters."""
    methods = [row.method for row in board.rows]
    pairs = [pair.pair for pair in board.pairs]
    mine = _trials_of(board, records)
    mine.sort(key=lambda t: (t.phase != "final", -(t.tune_miou or 0.0), t.trial_id))
    names = sorted({name for trial in mine for name in trial.drawn})
    return {
        "methods": methods,
        "pairs": [pair.short for pair in board.pairs],
        "params": names,
        "total": len(mine),
        "trials": _first([_trial(trial, methods, pairs, names) for trial in mine], bytes_of_trials),
    }


def _trials_of(board: Board, records: RunRecords) -> list[TrialRecord]:
    recipes = {pair.pair: pair.recipe for pair in board.pairs}
    return [
        trial
        for trial in records.trials
        if trial.phase != "teacher"
        and (trial.dataset, trial.protocol, trial.compare) == (board.dataset, board.protocol, board.compare)
        and recipes.get(trial.pair) == trial.recipe_hash
    ]


def _trial(trial: TrialRecord, methods: list[str], pairs: list[str], names: list[str]) -> list[Any]:
    params = {names.index(name): trial.params[name] for name in trial.drawn if name in trial.params}
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
    """As many of the first rows as fit into `limit` bytes of JSON."""
    shown, used = [], 0
    for row in rows:
        used += len(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()) + 1
        if used > limit:
            break
        shown.append(row)
    return shown


def _table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows for the page's script. Numbers have the text of the files, so that a download equals the file."""
    columns = list(rows[0]) if rows else []
    return {
        "columns": columns,
        "text": [any(isinstance(record[name], str) for record in rows) for name in columns],
        "rows": [
            [None if value is None else value if isinstance(value, str) else repr(value) for value in row]
            for row in (list(record.values()) for record in rows)
        ],
    }


def _embedded(value: Any) -> Markup:
    """JSON for a script element; `<` is escaped, so that no text can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _brief(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)
