"""How hard every method's terms pull beside the task's loss, pair by pair: a sweep cut to its first steps."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from distill.errors import UsageError
from distill.relative_weights import PREFIX, STEPS
from orchestrator.console.summary import outcome, show_troubles
from orchestrator.controller.run_state import Run
from orchestrator.ledger.run_folder import CALIBRATION
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.config import MethodSelection, SweepConfig
from orchestrator.planning.method_settings import default_weights
from orchestrator.planning.plan import Plan, make_plan

NAME = "calibration.csv"
COLUMNS = ("pair", "method", "term", "ratio", "even_weight")


def calibration_plan(config: SweepConfig, teachers: str) -> Plan:
    """Every study's default, all terms balanced, for as many steps as a balance is measured.

    Args:
        config: the sweep that is calibrated.
        teachers: the run's folder: a teacher trained here is found there by the sweep, and the other way round.

    Raises:
        UsageError: no method has a term to weigh.
    """
    methods = tuple(choice for method in config.methods if (choice := _balanced(method)) is not None)
    if not methods:
        raise UsageError("no method has a weight to calibrate; name one beside the student alone")
    search = config.search.model_copy(update={"trials": 1, "bracket": 1, "rungs": (), "evaluations": 1})
    operation = config.operation.model_copy(update={"teachers": config.operation.teachers or teachers})
    plan = make_plan(config.model_copy(update={"methods": methods, "search": search, "operation": operation}))
    return replace(
        plan,
        students=tuple(
            replace(
                cohort,
                cohort_id=f"{CALIBRATION}-{cohort.cohort_id}",
                waves=tuple(
                    replace(wave, steps=min(STEPS, wave.steps), evaluations=(min(STEPS, wave.steps),))
                    for wave in cohort.waves
                    if wave.phase == "search"
                ),
            )
            for cohort in plan.students
        ),
    )


def calibration_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Pair, method and term with `ratio`, the raw term's pull over the task's, and `even_weight`, its inverse."""
    trials = {
        row["trial_id"]: row
        for row in ledger.read("trials", ["trial_id", "phase", "pair", "method", "status"]).to_pylist()
        if row["phase"] == "search" and row["status"] == "ok"
    }
    curves = ledger.read("curves", ["trial_id", "terms_raw", "terms_weighted"]).to_pylist()
    rows = [
        {"pair": trial["pair"], "method": trial["method"], "term": term, "ratio": raw / weighted if weighted else 0.0,
         "even_weight": weighted / raw if raw else 0.0}
        for curve in curves
        if (trial := trials.get(curve["trial_id"])) is not None
        for term, raw, weighted in _terms(curve)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (row["pair"], row["method"], row["term"]))


def write_calibration(ledger: Ledger) -> None:
    """Keeps the rows as CSV beside the ledger's tables."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(calibration_rows(ledger))
    ledger.write_bytes(NAME, text.getvalue().encode())


def show_calibration(run: Run, *, as_json: bool, code: int) -> int:
    """Prints the rows and what failed, and hands the exit code back."""
    found = {**outcome(run, code), "calibration": calibration_rows(run.ledger)}
    del found["leaderboard"]
    if as_json:
        print(json.dumps(found, indent=1))
        return code
    show_troubles(found)
    print(render_calibration(found["calibration"]))
    print(f"calibration: {run.ledger.place(NAME)}")
    return code


def render_calibration(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows for a person."""
    width = max((len(row["pair"]) for row in rows), default=4) + 2
    lines = [f"{'pair':<{width}}{'method':<16}{'term':<20}{'ratio':>12}{'even weight':>14}"]
    for row in rows:
        numbers = f"{row['ratio']:>12.3g}{row['even_weight']:>14.3g}"
        lines.append(f"{row['pair']:<{width}}{row['method']:<16}{row['term']:<20}{numbers}")
    lines.append(
        f"ratio: the raw term's gradient at the student's output over the task loss's, over {STEPS} steps; with its "
        "even weight a term pulls as hard as the task"
    )
    return "\n".join(lines)


def _balanced(method: MethodSelection) -> MethodSelection | None:
    """The method with every weight above 0 relative, at 1; None for one without weights."""
    given = {name.removeprefix(PREFIX): value for name, value in method.config.items()}
    weights = {name: given.get(name, default) for name, default in default_weights(method.name).items()}
    wanted = [name for name, weight in weights.items() if weight is None or weight > 0]
    if not wanted:
        return None
    others = {name: value for name, value in given.items() if name not in wanted}
    return method.model_copy(
        update={"config": {**others, **{PREFIX + name: 1.0 for name in wanted}}, "space": {}}
    )


def _terms(curve: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    raw, weighted = dict(curve["terms_raw"]), dict(curve["terms_weighted"])
    return ((name, raw[name], weighted[name]) for name in raw if name != "task")
