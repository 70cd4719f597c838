"""What a sweep prints before it starts, and what `--dry-run` prints."""

from __future__ import annotations

import json

from orchestrator.console.exit_codes import DONE
from orchestrator.planning.cost_estimate import estimate, render_estimate, with_estimated_costs
from orchestrator.planning.plan import Plan


def show_plan(plan: Plan, *, as_json: bool) -> int:
    """Print a plan's counts, cost and disk; returns the exit code."""
    found = estimate(plan)
    print(json.dumps(found, indent=1) if as_json else render_estimate(found))
    return DONE


def start_lines(plan: Plan, place: str, board: str | None) -> str:
    """The plan in one line, with the run's folder, and the board's address: printed before checks and Ray take seconds.

    Args:
        plan: the plan.
        place: the run's folder.
        board: path or address of the board's page, which is written while the sweep runs; None if there is none.
    """
    plan = with_estimated_costs(plan)
    line = f"{plan.config.name}: {len(plan.studies)} studies, at most {plan.trainings} trainings → {place}; checking, then starting Ray"
    return (
        line if board is None else f"{line}\nboard, written every minute from the first training on: {board}"
    )
