"""How hard every method's terms pull compared with the task's loss, pair by pair: a sweep cut to its first steps."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from distill.errors import UsageError
from distill.relative_weights import PREFIX, STEPS
from orchestrator.ledger.run_folder import CALIBRATION
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.config import MethodSelection, SweepConfig
from orchestrator.planning.equal_seconds import at_equal_steps
from orchestrator.planning.method_settings import all_settings
from orchestrator.planning.plan import Plan, make_plan

CALIBRATION_FILE = "calibration.csv"
COLUMNS = ("pair", "method", "term", "ratio", "even_weight")


def calibration_plan(config: SweepConfig, contents: Mapping[str, str], teachers: str) -> Plan:
    """A plan of every study's default, all terms balanced, for as many steps as a balance is measured.

    Args:
        config: the sweep that is calibrated.
        contents: see `make_plan`.
        teachers: the run's folder. A teacher trained here is found there by the sweep, and the other way round.

    Raises:
        UsageError: no method has a weight.
    """
    methods = tuple(selection for method in config.methods if (selection := _balanced(method)) is not None)
    if not methods:
        raise UsageError("no method has a weight to calibrate; name one beside the student alone")
    search = config.search.model_copy(update={"trials": 1, "bracket": 1, "rungs": (), "evaluations": 1})
    operation = config.operation.model_copy(update={"teachers": config.operation.teachers or teachers})
    updated = at_equal_steps(config).model_copy(
        update={"methods": methods, "search": search, "operation": operation}
    )
    plan = make_plan(updated, contents)
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
    """Rows of pair, method, term, `ratio` (pull of the raw term over the task's) and `even_weight`, its inverse."""
    trials = {
        row["trial_id"]: row
        for row in ledger.read("trials", ["trial_id", "phase", "pair", "method", "status"]).to_pylist()
        if row["phase"] == "search" and row["status"] == "ok"
    }
    curves = ledger.read("curves", ["trial_id", "terms_raw", "terms_weighted"]).to_pylist()
    rows = [
        {
            "pair": trial["pair"],
            "method": trial["method"],
            "term": term,
            "ratio": raw / weighted if weighted else 0.0,
            "even_weight": weighted / raw if raw else 0.0,
        }
        for curve in curves
        if (trial := trials.get(curve["trial_id"])) is not None
        for term, raw, weighted in _terms(curve)
    ]
    return sorted(rows, key=lambda row: (row["pair"], row["method"], row["term"]))


def write_calibration(ledger: Ledger) -> None:
    """Write the rows as CSV beside the ledger's tables."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(calibration_rows(ledger))
    ledger.write_bytes(CALIBRATION_FILE, text.getvalue().encode())


def _balanced(method: MethodSelection) -> MethodSelection | None:
    """The method with every weight above 0 relative to the task, at 1; None if it has no weight."""
    given = {name.removeprefix(PREFIX): value for name, value in method.config.items()}
    used = all_settings(method.name, method.config)
    relative = [name for name, value in used.items() if name.endswith("_weight") and value > 0]
    if not relative:
        return None
    others = {name: value for name, value in given.items() if name not in relative}
    return method.model_copy(
        update={"config": {**others, **{PREFIX + name: 1.0 for name in relative}}, "space": {}}
    )


def _terms(curve: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    raw, weighted = dict(curve["terms_raw"]), dict(curve["terms_weighted"])
    return ((name, raw[name], weighted[name]) for name in raw if name != "task")
