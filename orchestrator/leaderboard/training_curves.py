"""Scores and losses over the steps of training, from the table `curves`, as charts: two for each pair."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from orchestrator.leaderboard.charts import Bundle, training_curves
from orchestrator.leaderboard.run_records import RunRecords, TrialRecord
from orchestrator.ledger.tables import Ledger

# Upper limit of the number of points on a page, and bounds for the number of points of a line.
_POINTS = 5_000
_FEWEST, _MOST = 5, 48
# With fewer points of a line than this, there are so many trainings that the page has the main lines only.
_WITH_LINES = 10
# Methods in the charts of all pairs together, and bounds for those of one pair, if the page has many trainings. They are
# the first ones in the order of the board; the student alone is always there.
_ALL_METHODS, _FEWEST_METHODS, _MOST_METHODS = 12, 3, 15
# A loss that spans more than this is drawn on a logarithmic axis.
_WIDE = 20.0
_FINAL = ("final",)
_SEARCH = ("search", "selection", "teacher")
_COLUMNS = ["trial_id", "step", "tune_miou", "loss_total"]

Line = tuple[tuple[float, float], ...]
"""Points (step, value)."""


@dataclass(frozen=True)
class TrialCurve:
    """The scores and losses of one training, ended or not.

    Attributes:
        miou: (step, mIoU on tune in points).
        loss: (step, total loss, the mean over the steps since the last report).
    """

    trial_id: str
    dataset: str
    pair: str
    method: str
    family: str
    phase: str
    compare: str
    miou: Line
    loss: Line


@dataclass(frozen=True)
class PairCurves:
    """The charts of one pair; `short` is its name on pages."""

    pair: str
    short: str
    score: Markup | None
    loss: Markup | None
    note: str


def read_curves(ledgers: Sequence[Ledger], records: RunRecords) -> tuple[TrialCurve, ...]:
    """The curves that a page draws: those of the final runs of each study, or of its search before the first one."""
    wanted = {trial.trial_id: trial for trial in _drawn(records.trials)}
    points: dict[str, list[dict[str, Any]]] = {}
    for ledger in ledgers:
        table = ledger.read("curves", _COLUMNS)
        mine = pc.is_in(
            table.column("trial_id"), pa.array(sorted(wanted.keys() - points.keys()), pa.string())
        )
        for row in table.filter(mine).sort_by([("trial_id", "ascending"), ("step", "ascending")]).to_pylist():
            points.setdefault(row["trial_id"], []).append(row)
    return tuple(
        trial_curve(
            rows,
            trial_id=trial_id,
            dataset=wanted[trial_id].dataset,
            pair=wanted[trial_id].pair,
            method=wanted[trial_id].method,
            family=wanted[trial_id].method_family,
            phase=wanted[trial_id].phase,
            compare=wanted[trial_id].compare,
        )
        for trial_id, rows in sorted(points.items())
    )


def trial_curve(rows: Iterable[dict[str, Any]], **facts: str) -> TrialCurve:
    """The curve of rows as `curves` has them, in the order of their steps; `facts` are the other fields."""
    rows = list(rows)
    miou = tuple((row["step"], 100 * row["tune_miou"]) for row in rows if row["tune_miou"] is not None)
    loss = tuple((row["step"], row["loss_total"]) for row in rows if row["loss_total"] is not None)
    return TrialCurve(miou=_finite(miou), loss=_finite(loss), **facts)


def _finite(line: Line) -> Line:
    return tuple(point for point in line if math.isfinite(point[1]))


def _drawn(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    mine = [trial for trial in trials if trial.phase != "teacher" and not trial.former]
    tested = {_study(trial) for trial in mine if trial.phase == "final"}
    return [trial for trial in mine if (trial.phase == "final") == (_study(trial) in tested)]


def _study(trial: TrialRecord) -> tuple[str, ...]:
    return trial.dataset, trial.protocol, trial.compare, trial.recipe_hash, trial.pair, trial.method


def points_per_line(curves: Sequence[TrialCurve]) -> int:
    """Number of points of each line, so that all curves of a page stay within their limit."""
    return max(_FEWEST, min(_MOST, _POINTS // max(2 * len(curves), 1)))


def pair_curves(
    pair: str,
    curves: Sequence[TrialCurve],
    order: Sequence[str],
    points: int,
    pairs: int = 1,
    short: str | None = None,
) -> PairCurves | None:
    """The charts of a pair's curves; None if none has two points.

    Args:
        pair: the pair's name.
        curves: its curves.
        order: methods in the order of the board; the first ones keep their names in a crowded chart.
        points: number of points of a line, at most.
        pairs: number of pairs that the page draws.
        short: the pair's name on pages, if it is another one.
    """
    short = short or pair
    by_method: dict[str, list[TrialCurve]] = {method: [] for method in order}
    for curve in curves:
        by_method.setdefault(curve.method, []).append(curve)
    shown = {method: _latest_phase(found) for method, found in by_method.items() if found}
    most = max(_FEWEST_METHODS, _ALL_METHODS // pairs) if points < _WITH_LINES else _MOST_METHODS
    left_out = [m for m, found in list(shown.items())[most:] if found[0].family != "baseline"]
    shown = {method: found for method, found in shown.items() if method not in left_out}
    has_lines = points >= _WITH_LINES
    charts = []
    for kind, title, up_label in (
        ("miou", f"mIoU on tune while training: {short}", "tune mIoU (points)"),
        ("loss", f"Loss while training: {short}", "total loss"),
    ):
        bundles = [
            bundle
            for method, found in shown.items()
            if (bundle := _bundle(method, found, kind, points, has_lines=has_lines)) is not None
        ]
        values = [value for b in bundles for line in (*b.lines, b.main) for _, value in line]
        is_wide = kind == "loss" and bool(values) and min(values) > 0 and max(values) > _WIDE * min(values)
        label = f"{up_label}, logarithmic" if is_wide else up_label
        charts.append(
            training_curves(bundles, title, "optimiser steps", label, logarithmic=is_wide)
            if bundles
            else None
        )
    if not any(charts):
        return None
    return PairCurves(
        pair, short, charts[0], charts[1], _note(shown, most if left_out else 0, has_lines=has_lines)
    )


def _latest_phase(curves: Sequence[TrialCurve]) -> list[TrialCurve]:
    final = [curve for curve in curves if curve.phase in _FINAL]
    return final or [curve for curve in curves if curve.phase in _SEARCH]


def _bundle(
    method: str, curves: Sequence[TrialCurve], kind: str, points: int, *, has_lines: bool
) -> Bundle | None:
    """The lines of one method: of final runs the mean is the main line, of search trials the best one."""
    lines = [line for curve in curves if len(line := getattr(curve, kind)) > 1]
    if not lines:
        return None
    if curves[0].phase in _FINAL:
        main = _mean(lines)
    else:
        best = max(
            curves, key=lambda c: (len(getattr(c, kind)) > 1, c.miou[-1] if c.miou else (0, 0.0), c.trial_id)
        )
        main = getattr(best, kind)
    if len(main) < 2:
        return None
    thin = lines if has_lines and len(lines) > 1 else []
    return Bundle(
        method, curves[0].family, tuple(_thinned(line, points) for line in thin), _thinned(main, points)
    )


def _mean(lines: Sequence[Line]) -> Line:
    """The mean at the steps that all lines have."""
    values = [dict(line) for line in lines]
    steps = sorted(set(values[0]).intersection(*values[1:]))
    return tuple((step, math.fsum(each[step] for each in values) / len(values)) for step in steps)


def _thinned(line: Line, points: int) -> Line:
    """At most `points` of the points, evenly spaced, the first and the last one among them."""
    if len(line) <= points:
        return line
    return tuple(line[round(k * (len(line) - 1) / (points - 1))] for k in range(points))


def _note(shown: dict[str, list[TrialCurve]], most: int, *, has_lines: bool) -> str:
    searched = [method for method, found in shown.items() if found[0].phase not in _FINAL]
    parts = [f"The first {most} methods of the board and the student alone."] if most else []
    if len(searched) < len(shown):
        parts.append(
            "Final runs: a thin line for each seed, a thick line for their mean at the steps that all have reached."
            if has_lines
            else "Final runs: the mean over the seeds at the steps that all have reached."
        )
    if searched:
        which = ", ".join(searched) if len(searched) < len(shown) else "All methods"
        lines = "a thin line for each, a thick line for the best so far" if has_lines else "the best so far"
        parts.append(f"{which}: no final run has ended; these are trainings of the search, {lines}.")
    parts.append("Each method's loss has terms of its own, so its level does not compare between methods.")
    return " ".join(parts)
