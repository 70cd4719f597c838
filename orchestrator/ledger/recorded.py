"""What a run has recorded: its trials with their scores, its plan, and final runs that are not its choice any more."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.errors import UsageError
from orchestrator.ledger.queries import latest_attempts
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.equal_seconds import Costs
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.renamed import read_recorded_config, recorded_config
from orchestrator.planning.replay import RecordedTrial, replay

PLAN_FILE = "plan.json"


def recorded_contents(ledger: Ledger) -> dict[str, str]:
    """Content of each file of weights that the run was planned with, by its path.

    It is empty if there is no sound plan file; `check_run_folder` reports that.
    """
    try:
        found = json.loads(ledger.read_bytes(PLAN_FILE))["contents"]
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def recorded_costs(ledger: Ledger) -> Costs:
    """The costs of a step that the run has recorded: in its plan file, or else in the config of its newest command."""
    try:
        config = json.loads(ledger.read_bytes(PLAN_FILE))["config"]
        return recorded_config(config).step_costs
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        pass  # `check_run_folder` reports a damaged plan file
    try:
        newest = _newest_row(ledger.read("provenance", ["config_yaml", "created_at"]).to_pylist())
        return {} if newest is None else read_recorded_config(newest["config_yaml"] or "").step_costs
    except UsageError:
        return {}  # of another version, or damaged: `repair_run` reports that


def recorded_trials(ledger: Ledger, rows: Sequence[Mapping[str, Any]]) -> dict[str, RecordedTrial]:
    """The latest attempt of each trial of these rows, by id, with its scores."""
    scores: dict[str, dict[int, float]] = {}
    for row in ledger.read("curves", ["trial_id", "step", "tune_miou"]).to_pylist():
        if row["tune_miou"] is not None:
            scores.setdefault(row["trial_id"], {})[row["step"]] = row["tune_miou"]
    return {
        row["trial_id"]: RecordedTrial(row["status"], scores.get(row["trial_id"], {}))
        for row in latest_attempts(rows)
    }


@dataclass(frozen=True)
class Choices:
    """What a run that has grown says about its final runs.

    Attributes:
        former: ids of final runs of a configuration that is not the choice of its study any more.
        undecided: studies with a search that has grown and has not ended.
    """

    former: frozenset[str] = frozenset()
    undecided: frozenset[str] = frozenset()


def choices_of(ledger: Ledger) -> Choices:
    """The choices of a run, by its newest plan. A run that has only one plan has only one choice per study."""
    provenance = ledger.read("provenance", ["config_yaml", "plan_hash", "created_at"]).to_pylist()
    if len({row["plan_hash"] for row in provenance}) < 2:
        return Choices()
    plan = newest_plan(provenance, recorded_contents(ledger))
    if plan is None:
        return Choices()
    rows = ledger.read("trials", ["trial_id", "attempt", "study_id", "phase", "status"]).to_pylist()
    found = replay(plan, recorded_trials(ledger, rows))
    decided = {trial.study_id for trial in found.trials.values() if trial.phase == "final"}
    finals = {row["trial_id"]: row["study_id"] for row in rows if row["phase"] == "final"}
    open_studies = {each.bracket.study.study_id for each in found.open}
    return Choices(
        former=frozenset(t for t, study in finals.items() if study in decided and t not in found.trials),
        undecided=frozenset(open_studies & set(finals.values())),
    )


def _newest_row(provenance: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The newest row of `provenance`."""
    return max(provenance, key=lambda row: (row["created_at"] is not None, row["created_at"]), default=None)


def newest_plan(provenance: Sequence[Mapping[str, Any]], contents: Mapping[str, str]) -> Plan | None:
    """The newest plan of a run; None if this version of the program makes another plan of its config.

    Args:
        provenance: rows of the table.
        contents: of the run's files of weights (`recorded_contents`).
    """
    newest = _newest_row(provenance)
    try:
        config = None if newest is None else read_recorded_config(newest["config_yaml"] or "")
        plan = None if config is None else make_plan(config, contents)
    except UsageError:
        return None
    return plan if newest is not None and plan is not None and plan.plan_hash == newest["plan_hash"] else None
