"""What a sweep prints at its end: failures, counts, the leaderboard's first rows, where the results are."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill.relative_weights import STEPS
from orchestrator.console.board_head import board_heads, export_command, result_console
from orchestrator.console.exit_codes import BUDGET, DONE, INTERRUPTED, SOME_FAILED
from orchestrator.console.signals import INTERRUPT
from orchestrator.controller.calibration import CALIBRATION_FILE, calibration_rows
from orchestrator.leaderboard.files import table_rows
from orchestrator.ledger.queries import latest_attempts
from orchestrator.planning.pair_names import short_names_of
from orchestrator.planning.replay import is_hopeless
from orchestrator.protocol import SKIPPED_PICTURES

if TYPE_CHECKING:
    from orchestrator.controller.run_state import Run
    from orchestrator.leaderboard.files import Written
    from orchestrator.protocol import Status

_GALLERY = "leaderboard/gallery.html"


def exit_code(run: Run) -> int:
    """Exit code of a sweep that has ended or stopped."""
    if run.stop_reason == INTERRUPT:
        return INTERRUPTED
    if run.stop_reason is not None and run.stop_reason.startswith("budget"):
        return BUDGET
    return SOME_FAILED if run.failures() or run.given_up else DONE


def outcome(run: Run, code: int) -> dict[str, Any]:
    """The outcome of a sweep as plain values."""
    counts: dict[str, dict[str, int]] = {}
    for (phase, status), number in sorted(run.counts().items()):
        counts.setdefault(phase, {})[status] = number
    return {
        "exit_code": code,
        "stopped": run.stop_reason,
        "run": run.ledger.place(),
        "plan_hash": run.plan.plan_hash,
        "trials": counts,
        "worker_hours": round(run.worker_seconds / 3600, 4),
        "given_up": run.given_up,
        "stopped_studies": _stopped_studies(run),
        "overtaken_teachers": overtaken_teachers(run),
        "leaderboard": run.ledger.place("leaderboard/LEADERBOARD.md"),
        "gallery": run.ledger.place(_GALLERY) if run.ledger.exists(_GALLERY) else None,
        "skipped_pictures": [
            run.ledger.read_bytes(path).decode() for path in sorted(run.ledger.list(SKIPPED_PICTURES))
        ],
        "failures": [
            {**{key: row[key] for key in ("trial_id", "study_id", "phase", "error")},
             "log": run.ledger.place(f"logs/{row['trial_id']}.txt")}
            for row in run.failures()
        ],
    }  # fmt: skip


def show_outcome(run: Run, written: Written, *, as_json: bool, code: int) -> int:
    """Print the outcome; returns the exit code."""
    found = outcome(run, code)
    if as_json:
        found["rows"] = table_rows(written.boards)
        print(json.dumps(found, indent=1))
        return code
    show_failures(found)
    for phase, tally in found["trials"].items():
        print(f"{phase}: " + ", ".join(f"{number} {status}" for status, number in tally.items()))
    for head in board_heads(written.boards):
        result_console().print(head)
    print()
    if found["stopped"]:
        print(f"stopped: {found['stopped']}; the same command goes on from here")
    print(f"leaderboard: {written.page}")
    if found["gallery"]:
        print(f"gallery: {found['gallery']}")
    following = export_command(found["run"], written.boards)
    if not found["stopped"] and following is not None:
        print(f"next, take the best student of a pair home: {following}")
    return code


def show_calibration(run: Run, *, as_json: bool, code: int) -> int:
    """Print the rows of a calibration and what failed; returns the exit code."""
    found = {**outcome(run, code), "calibration": calibration_rows(run.ledger)}
    del found["leaderboard"]
    if as_json:
        print(json.dumps(found, indent=1))
        return code
    show_failures(found)
    print(render_calibration(found["calibration"]))
    print(f"calibration: {run.ledger.place(CALIBRATION_FILE)}")
    return code


def render_calibration(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of a calibration as a table of text."""
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


def show_failures(found: Mapping[str, Any]) -> None:
    """Failed trials, skipped pictures and teachers below their students, on standard error."""
    for failure in found["failures"]:
        print(
            f"failed: {failure['phase']} {failure['study_id']}: {failure['error']} (log: {failure['log']})",
            file=sys.stderr,
        )
    for study in found["stopped_studies"]:
        print(f"study {study} was stopped: all of its first trials failed", file=sys.stderr)
    for sentence in found["given_up"]:
        print(f"{sentence}; the same command tries again", file=sys.stderr)
    if found["skipped_pictures"]:
        print(
            f"{len(found['skipped_pictures'])} pictures could not be read and were skipped:", file=sys.stderr
        )
    for message in found["skipped_pictures"]:
        print(f"  {message}", file=sys.stderr)
    for sentence in found["overtaken_teachers"]:
        print(f"WARNING: {sentence}", file=sys.stderr)


def _stopped_studies(run: Run) -> list[str]:
    """Studies of which nothing came but failures, and whose other trials were not tried."""
    statuses: dict[str, dict[str, Status]] = {study.study_id: {} for study in run.plan.studies}
    trials = run.ledger.read("trials", ["trial_id", "attempt", "study_id", "status"]).to_pylist()
    for row in latest_attempts(trials):
        statuses.setdefault(row["study_id"], {})[row["trial_id"]] = row["status"]
    return [study.study_id for study in run.plan.studies if is_hopeless([*statuses[study.study_id].values()])]


def overtaken_teachers(run: Run) -> list[str]:
    """One sentence per pair whose teacher scores below its student alone, on the best evidence there is."""
    columns = ["study_id", "phase", "status", "tune_miou", "test_miou"]
    rows = [row for row in run.ledger.read("trials", columns).to_pylist() if row["status"] == "ok"]
    names, found = short_names_of(run.config.pairs), []
    for study in run.plan.studies:
        if study.method != "student":
            continue
        for split, phase in (("test", "final"), ("tune", "search")):
            teacher = _scores(rows, study.teacher.teacher_id, "teacher", split)
            alone = _scores(rows, study.study_id, phase, split)
            if teacher and alone:
                reached = math.fsum(alone) / len(alone) if split == "test" else max(alone)
                if teacher[-1] < reached:
                    found.append(
                        f"the teacher of {names[study.pair]} scores {100 * teacher[-1]:.1f} mIoU on {split}, its "
                        f"{study.title} alone {100 * reached:.1f}: it knows less than the student it teaches. "
                        "Train it longer, or choose another"
                    )
                break
    return list(dict.fromkeys(found))  # a student alone has a study of equal steps, and one of equal seconds


def _scores(rows: Sequence[Mapping[str, Any]], study_id: str, phase: str, split: str) -> list[float]:
    mine = [row[f"{split}_miou"] for row in rows if (row["study_id"], row["phase"]) == (study_id, phase)]
    return [score for score in mine if score is not None]
