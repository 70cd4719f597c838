"""The folder of a run: whether it may be used, and which plan it has."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from distill.errors import UsageError, reading
from distill.redaction import redacted
from orchestrator.ledger.folder_lock import CONTENDERS, LOCK_FILE
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.weight_contents import with_contents

DAMAGED = "damaged"
"""Folder inside a run into which damaged files are moved."""
CALIBRATION = "calibration"
"""Folder inside a run where `--calibrate` writes."""

PLAN_FILE = "plan.json"
_TRACKERS = ("mlflow.db", "wandb", "tensorboard")
_RUN_PATHS = (
    "tables",
    "checkpoints",
    "models",
    "teachers",
    "logs",
    "leaderboard",
    "ray",
    DAMAGED,
    *_TRACKERS,
    PLAN_FILE,
)
_RESULTS = ("tables/trials", "tables/curves", "checkpoints")
# A folder without a plan may already contain these: a calibration, and what trackers write when they are tested.
_ALLOWED_WITHOUT_PLAN = (f"{CALIBRATION}/", f"{CONTENDERS}/", "teachers/", *_TRACKERS)


def check_run_folder(ledger: Ledger, plan: Plan, *, fresh: bool) -> None:
    """Check that this plan may use the folder: nothing was trained in it, it has the same plan, or `fresh` is set.

    Changes nothing.

    Raises:
        UsageError: the folder has another plan (the message lists the differences), or files that are not a run.
    """
    for path in _RUN_PATHS:  # raises for a link that leads out of the folder, before Ray follows it
        ledger.exists(path)
    if _is_repairable(ledger):
        return
    if not ledger.exists(PLAN_FILE):
        if foreign := [
            path for path in ledger.list() if path != LOCK_FILE and not path.startswith(_ALLOWED_WITHOUT_PLAN)
        ]:
            raise UsageError(
                f"{ledger.place()} is not empty and holds no run (first file: {foreign[0]}); choose another --output"
            )
        return
    stored = _stored_plan(ledger)
    if not fresh and not _is_of_plan(stored, plan) and _has_results(ledger):
        found = _differences(_described(stored), _described(_plan_content(plan)))
        lines = [redacted(f"  {key}: there {old!r}, here {new!r}") for key, old, new in found]
        raise UsageError(
            f"{ledger.place()} holds another plan:\n"
            + "\n".join(lines or ["  made by another version of this program"])
            + "\nchoose another --output, or --fresh to delete what is there"
        )


def claim_run_folder(ledger: Ledger, plan: Plan, *, fresh: bool) -> None:
    """Check the folder and write the plan into it; `fresh` first deletes the results of the earlier plan."""
    check_run_folder(ledger, plan, fresh=fresh)
    is_planned = ledger.exists(PLAN_FILE)
    outdated: tuple[str, ...] = ()
    if fresh:
        outdated = _RUN_PATHS if is_planned or _is_repairable(ledger) else ()  # only in the folder of a run
    elif is_planned and not _is_of_plan(_stored_plan(ledger), plan):
        # What a command wrote that failed before anything was trained. Teachers are valid for every plan, by their ids.
        outdated = ("tables", PLAN_FILE)
    for path in outdated:
        ledger.delete(path)
    if not ledger.exists(PLAN_FILE):
        write_plan(ledger, plan)


def _has_results(ledger: Ledger) -> bool:
    """Whether a trial was recorded in the run, or has a checkpoint."""
    return any(True for table in _RESULTS for _ in ledger.list(table))


def write_plan(ledger: Ledger, plan: Plan) -> None:
    """Write the plan that the folder belongs to."""
    text = json.dumps(_plan_content(plan), indent=1, sort_keys=True)
    ledger.write_bytes(PLAN_FILE, redacted(text).encode())


def recorded_contents(ledger: Ledger) -> dict[str, str]:
    """Content of each file of weights that the run was planned with, by its path; none if there is no sound plan file."""
    try:
        found = json.loads(ledger.read_bytes(PLAN_FILE))["contents"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # reported by `check_run_folder`
        return {}
    return found if isinstance(found, dict) else {}


def _plan_content(plan: Plan) -> dict[str, Any]:
    return {
        "plan_hash": plan.plan_hash,
        "config": plan.config.decisive(),
        "contents": dict(plan.contents),
    }


def _described(content: Mapping[str, Any]) -> Any:
    """A plan file's config with the content of files in place of their paths."""
    contents = content.get("contents")
    return with_contents(content["config"], contents if isinstance(contents, dict) else {})


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


def _differences(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(Dotted key, old value, new value) for every value that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{place}.{key}" if place else key)
    elif old != new:
        yield place, old, new
