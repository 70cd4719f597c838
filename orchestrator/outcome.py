"""What a person is told at the end: the board's first lines, what failed, where everything lies."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.cohort_job import SKIPPED_PICTURES

if TYPE_CHECKING:
    from orchestrator.run import Run


def outcome(run: Run, code: int) -> dict[str, Any]:
    """The end of a sweep as plain values."""
    counts: dict[str, dict[str, int]] = {}
    for (phase, status), number in sorted(run.counts().items()):
        counts.setdefault(phase, {})[status] = number
    return {
        "exit_code": code,
        "stopped": run.stop_reason,
        "run": run.ledger.root,
        "plan_hash": run.plan.plan_hash,
        "trials": counts,
        "worker_hours": round(run.worker_seconds / 3600, 4),
        "leaderboard": f"{run.ledger.root}/leaderboard/LEADERBOARD.md",
        "skipped_pictures": [
            run.ledger.read_bytes(path).decode() for path in sorted(run.ledger.list(SKIPPED_PICTURES))
        ],
        "failures": [
            {**{key: row[key] for key in ("trial_id", "study_id", "phase", "error")},
             "log": f"{run.ledger.root}/logs/{row['trial_id']}.txt"}
            for row in run.failures()
        ],
    }  # fmt: skip


def show_outcome(run: Run, *, as_json: bool, code: int) -> int:
    """Prints the outcome and hands the exit code back."""
    found = outcome(run, code)
    if as_json:
        print(json.dumps(found, indent=1))
        return code
    show_troubles(found)
    for phase, tally in found["trials"].items():
        print(f"{phase}: " + ", ".join(f"{number} {status}" for status, number in tally.items()))
    if found["stopped"]:
        print(f"stopped: {found['stopped']}; the same command goes on from here")
    print(f"leaderboard: {found['leaderboard']}")
    return code


def show_troubles(found: Mapping[str, Any]) -> None:
    """The failed trials and the skipped pictures of an outcome, on standard error."""
    for failure in found["failures"]:
        print(
            f"failed: {failure['phase']} {failure['study_id']}: {failure['error']} (log: {failure['log']})",
            file=sys.stderr,
        )
    if found["skipped_pictures"]:
        print(
            f"{len(found['skipped_pictures'])} pictures could not be read and were skipped:", file=sys.stderr
        )
    for message in found["skipped_pictures"]:
        print(f"  {message}", file=sys.stderr)
