"""The folder of a run: whether it may be used, and which plan it has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distill.errors import UsageError, reading
from distill.redaction import redacted
from orchestrator.ledger.folder_lock import CONTENDERS, LOCK_FILE
from orchestrator.ledger.queries import latest_attempts
from orchestrator.ledger.recorded import PLAN_FILE, recorded_contents, recorded_trials
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.growth import Growth, growth_of
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.renamed import recorded_config

DAMAGED = "damaged"
"""Folder inside a run into which damaged files are moved."""
CALIBRATION = "calibration"
"""Folder inside a run where `--calibrate` writes."""
BOARD_PAGE = "leaderboard/leaderboard.html"
"""The page of a run's leaderboard."""
COSTS = "costs"
"""Folder inside a run with the tables of each measurement of costs, for `compare: seconds`."""

_TRACKERS = ("mlflow.db", "wandb", "tensorboard")
_RUN_PATHS = (
    "tables",
    "checkpoints",
    "models",
    "teachers",
    "logs",
    "leaderboard",
    "ray",
    COSTS,
    DAMAGED,
    *_TRACKERS,
    PLAN_FILE,
)
_RESULTS = ("tables/trials", "tables/curves", "checkpoints")
# A folder without a plan may already contain these: a calibration, and what trackers write when they are tested.
_ALLOWED_WITHOUT_PLAN = (f"{CALIBRATION}/", f"{CONTENDERS}/", "teachers/", *_TRACKERS)


def check_run_folder(ledger: Ledger, plan: Plan, *, fresh: bool) -> Growth | None:
    """Check that this plan may use the folder: it keeps everything that was trained in it, or `fresh` is set.

    Changes nothing.

    Returns:
        What the plan adds to the run; None if the run has this plan already, or nothing was trained in it.

    Raises:
        UsageError: the folder has trials that are not in the plan (the message has the reasons), or files that are no run.
    """
    for path in _RUN_PATHS:  # raises for a link that leads out of the folder, before Ray follows it
        ledger.exists(path)
    if _is_repairable(ledger):
        return None
    if not ledger.exists(PLAN_FILE):
        if foreign := [
            path for path in ledger.list() if path != LOCK_FILE and not path.startswith(_ALLOWED_WITHOUT_PLAN)
        ]:
            raise UsageError(
                f"{ledger.place()} is not empty and holds no run (first file: {foreign[0]}); choose another --output"
            )
        return None
    stored = _stored_plan(ledger)
    if fresh or _is_of_plan(stored, plan) or not _has_results(ledger):
        return None
    return _growth(ledger, plan, stored)


def claim_run_folder(ledger: Ledger, plan: Plan, *, fresh: bool) -> None:
    """Check the folder and write the plan into it; `fresh` first deletes the results of the earlier plan."""
    growth = check_run_folder(ledger, plan, fresh=fresh)
    is_planned = ledger.exists(PLAN_FILE)
    outdated: tuple[str, ...] = ()
    if fresh:
        outdated = _RUN_PATHS if is_planned or _is_repairable(ledger) else ()  # only in the folder of a run
    elif growth is not None:
        # A student beyond a rung of a bracket that was smaller has competed with too few.
        outdated = ("checkpoints",) if growth.resized else ()
    elif is_planned and not _is_of_plan(_stored_plan(ledger), plan):
        # What a command wrote that failed before anything was trained. Teachers are valid for every plan, by their ids.
        outdated = ("tables", PLAN_FILE)
    for path in outdated:
        ledger.delete(path)
    if growth is not None or not ledger.exists(PLAN_FILE):
        write_plan(ledger, plan)


def earlier_plan(ledger: Ledger, plan: Plan) -> Plan | None:
    """The plan that the folder has: `plan` itself, or a shorter one; None if this version cannot make it.

    Its hash is the recorded one, also if the data sets have been in other folders.
    """
    stored = _stored_plan(ledger) if ledger.exists(PLAN_FILE) else None
    if stored is None:
        return None
    if _is_of_plan(stored, plan):
        return replace(plan, plan_hash=stored["plan_hash"])
    try:
        found = make_plan(recorded_config(stored["config"]), recorded_contents(ledger))
    except UsageError:
        return None
    return found if found.plan_hash == stored["plan_hash"] else None


def _growth(ledger: Ledger, plan: Plan, stored: dict[str, Any]) -> Growth:
    """What the plan adds to a run in which something was trained; raises `UsageError` if it would lose something.

    Args:
        ledger: the run.
        plan: the new plan.
        stored: the plan file.
    """
    columns = ["trial_id", "attempt", "study_id", "phase", "status", "pair", "method", "seed", "repeat"]
    rows = latest_attempts(ledger.read("trials", columns).to_pylist())
    try:
        earlier = recorded_config(stored["config"])
        growth = growth_of(earlier, plan, rows, recorded_trials(ledger, rows), recorded_contents(ledger))
        lost = list(growth.lost)
    except UsageError:
        lost = ["made by another version of this program"]
    lost += _foreign_checkpoints(ledger, plan)
    if not lost:
        return growth
    raise UsageError(
        f"{ledger.place()} holds another plan, with trials that this sweep file does not have:\n"
        + "\n".join(redacted(f"  {reason}") for reason in lost)
        + "\na longer sweep file keeps what is recorded; for this one choose another --output, or --fresh to delete what is "
        "there"
    )


def _foreign_checkpoints(ledger: Ledger, plan: Plan) -> list[str]:
    """Trainings that were interrupted and are not in the plan."""
    planned = {cohort.cohort_id for cohort in plan.students}
    planned |= {f"teacher-{teacher.teacher_id}" for teacher in plan.teachers}
    found = {path.split("/")[1] for path in ledger.list("checkpoints")}
    return [
        f"checkpoints/{name}: an interrupted training of another plan" for name in sorted(found - planned)
    ]


def _has_results(ledger: Ledger) -> bool:
    """Whether a trial was recorded in the run, or has a checkpoint."""
    return any(True for table in _RESULTS for _ in ledger.list(table))


def write_plan(ledger: Ledger, plan: Plan) -> None:
    """Write the plan that the folder belongs to."""
    text = json.dumps(_plan_content(plan), indent=1, sort_keys=True)
    ledger.write_bytes(PLAN_FILE, redacted(text).encode())


def _plan_content(plan: Plan) -> dict[str, Any]:
    return {
        "plan_hash": plan.plan_hash,
        "config": plan.config.decisive(),
        "contents": dict(plan.contents),
    }


def _is_of_plan(stored: Mapping[str, Any], plan: Plan) -> bool:
    """Whether a plan file is of this plan. Its data sets may have been in other folders."""
    if stored["plan_hash"] == plan.plan_hash:
        return True
    moved = {}
    for name, data in plan.config.data.items():
        known = stored["config"].get("data", {}).get(name, {})
        moved[name] = data.model_copy(update={"root": known["root"]}) if "root" in known else data
    before = plan.config.model_copy(update={"data": moved})
    return bool(make_plan(before, plan.contents).plan_hash == stored["plan_hash"])


def fault_of_plan_file(ledger: Ledger) -> str | None:
    """What is wrong with the plan file of a run: it `is missing`, it `is damaged`; None if nothing is."""
    try:
        stored = json.loads(ledger.read_bytes(PLAN_FILE))
        is_sound = isinstance(stored["plan_hash"], str) and isinstance(stored["config"], dict)
    except FileNotFoundError:
        return "is missing"
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UsageError):  # the storage cannot be used, which says nothing about the file
            raise
        return "is damaged"
    return None if is_sound else "is damaged"


def _is_repairable(ledger: Ledger) -> bool:
    """Whether the plan is missing or damaged, but there are tables that say which plan they are of (`repair_run`)."""
    return ledger.exists("tables/provenance") and fault_of_plan_file(ledger) is not None


def _stored_plan(ledger: Ledger) -> dict[str, Any]:
    return _read_json(ledger, PLAN_FILE, {"plan_hash": str, "config": dict})


def _read_json(ledger: Ledger, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Read a JSON file of the run that may be damaged or written by someone else.

    Raises:
        UsageError: the file is not a JSON object with these fields.
        FileNotFoundError: there is no such file.
    """
    data = ledger.read_bytes(path)
    with reading(ledger.place(path), "delete it if no command is at work in the folder"):
        found: dict[str, Any] = json.loads(data)
        wrong = [name for name, kind in fields.items() if not isinstance(found[name], kind)]
    if wrong:
        raise UsageError(
            f"{ledger.place(path)} has a wrong {wrong[0]}, must be as a sweep wrote it; delete it"
        )
    return found
