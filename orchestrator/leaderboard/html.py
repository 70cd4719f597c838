"""leaderboard.html: one file that works offline; table and forest plot read without JavaScript."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from orchestrator.leaderboard.charts import Mark, css_class, forest, scatter, shape
from orchestrator.leaderboard.entries import Board, Row
from orchestrator.leaderboard.evidence import Evidence, TrialRecord
from orchestrator.leaderboard.phrases import HOW_TO_READ, board_title, legend, protocol_line, verdict
from orchestrator.leaderboard.tables import (
    TextTable,
    beats_table,
    best_of_table,
    cells_table,
    class_table,
    methods_table,
    missing_table,
    pairs_table,
    parameters_table,
    provenance_table,
    published_table,
)

# The page holds at most so many trials, finals first: it must stay small; the tables hold them all.
TRIALS = 800

_COSTS: tuple[tuple[str, str, Callable[[Row], float | None]], ...] = (
    ("training cost", "training cost (× the student alone)", lambda row: row.train_cost_relative),
    ("GPU-hours", "GPU-hours spent on all trials", lambda row: row.gpu_hours),
    ("peak memory", "peak memory (GiB)", lambda row: _gib(row.peak_memory_bytes)),
)


def leaderboard_html(boards: Sequence[Board], evidence: Evidence, command: str) -> str:
    """The whole page. `command` is the one that made it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator.leaderboard"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    views = [_view(place, board, evidence, several=len(boards) > 1) for place, board in enumerate(boards)]
    return environment.get_template("leaderboard.html.j2").render(
        boards=views,
        facts=HOW_TO_READ,
        command=command,
        data=_embedded({"boards": [_data(board, evidence) for board in boards]}),
    )


def _view(place: int, board: Board, evidence: Evidence, several: bool) -> dict[str, Any]:
    """What the template shows of one board."""
    families = sorted({row.family for row in board.rows})
    classes = [(pair.pair, class_table(board, pair)) for pair in board.pairs]
    return {
        "id": f"b{place}",
        "title": board_title(board, several),
        "protocol": protocol_line(board),
        "verdict": verdict(board),
        "notes": board.notes,
        "legend": legend(board),
        "families": [(family, css_class(family), _key(family)) for family in families],
        "pairs": pairs_table(board),
        "methods": methods_table(board),
        "family_of": {row.method: row.family for row in board.rows},
        "forest": _forest(board),
        "scatters": list(_scatters(board)),
        "cells": cells_table(board),
        "classes": [(name, table) for name, table in classes if table.rows],
        "parameters": parameters_table(board),
        "beats": beats_table(board),
        "best_of": TextTable((), ()) if board.adaptive else best_of_table(board),
        "published": published_table(board),
        "provenance": provenance_table(board, _commands(evidence)),
        "missing": missing_table(board),
        "commands": board.commands,
    }


def _key(family: str) -> Markup:
    return Markup('<svg class="key" viewBox="-7 -7 14 14" aria-hidden="true">{}</svg>').format(
        Markup(shape(family, 0, 0))
    )


def _forest(board: Board) -> Markup | None:
    marks = [
        Mark(row.method, row.family, 100 * row.gain, _points(row.gain_low), _points(row.gain_high))
        for row in board.rows
        if row.gain is not None
    ]
    if not marks:
        return None
    # Every text in a drawing is escaped where it is drawn.
    return Markup(
        forest(marks, "Gain of every method over the student alone, in mIoU points, with 95 % intervals")
    )


def _scatters(board: Board) -> list[tuple[str, Markup]]:
    """Accuracy against each cost that two methods have, and gain against all that was spent."""
    found = []
    for name, label, cost in _COSTS:
        marks = [
            Mark(row.method, row.family, 100 * row.miou, _points(row.miou_low), _points(row.miou_high), spent)
            for row in board.rows
            if row.miou is not None and (spent := cost(row)) is not None
        ]
        if len(marks) > 1:
            found.append(
                (f"mIoU against {name}", Markup(scatter(marks, f"mIoU against {name}", label, "mIoU")))
            )
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
    if len(marks) > 1:
        title = "gain against GPU-hours"
        found.append((title, Markup(scatter(marks, title, "GPU-hours spent on all trials", "gain"))))
    return found


def _data(board: Board, evidence: Evidence) -> dict[str, Any]:
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
        "trials": [_trial(trial, methods, pairs, names) for trial in mine[:TRIALS]],
    }


def _trial(trial: TrialRecord, methods: list[str], pairs: list[str], names: list[str]) -> list[Any]:
    params = {names.index(name): value for name, value in trial.params.items()}
    return [
        trial.trial_id,
        methods.index(trial.method),
        pairs.index(trial.pair),
        trial.phase[0],
        trial.status[0],
        trial.seed,
        _brief(trial.tune_miou),
        _brief(trial.test_miou),
        {str(place): float(f"{v:.4g}") if isinstance(v, float) else v for place, v in params.items()},
    ]


def _commands(evidence: Evidence) -> Mapping[str, tuple[str, str]]:
    return {
        record.provenance_id: (
            f"{(record.commit or 'unknown')[:12]}{', uncommitted changes' if record.dirty else ''}",
            record.command,
        )
        for record in evidence.provenance.values()
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
