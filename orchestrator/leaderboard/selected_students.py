"""Selects one trained student per pair and method, and writes the file from which `distill.export` reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.leaderboard.cards import card_text, claim
from orchestrator.leaderboard.entries import Board, Cell, PairSummary
from orchestrator.leaderboard.run_records import RunRecords, TrialRecord
from orchestrator.leaderboard.scores import Estimate, final_score

STUDENTS = "students.json"


@dataclass(frozen=True)
class SelectedStudent:
    """The selected final run of one method on one pair; `best` marks the pair's best method."""

    board: Board
    pair: PairSummary
    cell: Cell
    trial: TrialRecord
    best: bool

    @property
    def card(self) -> str:
        """Path of the model card of a best student, relative to the leaderboard."""
        return f"cards/{self.trial.trial_id}.md"


def select_students(board: Board, records: RunRecords) -> tuple[SelectedStudent, ...]:
    """One final run for each pair and method with a score of its own, per pair in descending order of mean test mIoU.

    The best method has the highest mean test mIoU on the pair. Among a method's seeds, the one with the best tune mIoU
    is selected. A selection by test score would bias that score upwards.
    """
    found = []
    for pair in board.pairs:
        cells = [board.cells[pair.pair, row.method] for row in board.rows]
        scored = [cell for cell in cells if cell.miou is not None and cell.seeds > 0]
        # The sort is stable, so the board's order decides between equal scores.
        scored.sort(key=lambda cell: -(cell.miou.mean if cell.miou else 0.0))
        for place, cell in enumerate(scored):
            finals = finished_finals(board, records, pair, cell.method)
            trial = max(finals, key=by_tune, default=None)
            if trial is not None:
                found.append(SelectedStudent(board, pair, cell, trial, best=place == 0))
    return tuple(found)


def finished_finals(board: Board, records: RunRecords, pair: PairSummary, method: str) -> list[TrialRecord]:
    """The finished final runs of a method on a pair of a board, of the study's choice."""
    wanted = board.dataset, board.protocol, board.compare, pair.pair, pair.recipe, method, "final", "ok"
    return [
        t
        for t in records.trials
        if (t.dataset, t.protocol, t.compare, t.pair, t.recipe_hash, t.method, t.phase, t.status) == wanted
        and not t.former
    ]


def by_tune(trial: TrialRecord) -> tuple[float, str]:
    """Sort key: tune mIoU, then the id."""
    return trial.tune_miou or 0.0, trial.trial_id


def students_bytes(selected: Sequence[SelectedStudent], records: RunRecords) -> bytes:
    """All selected students with their scores and cards, as the JSON that `python -m distill.export` reads."""
    found = [_student_record(student, records) for student in selected]
    return (json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _student_record(student: SelectedStudent, records: RunRecords) -> dict[str, Any]:
    board, pair, cell, trial = student.board, student.pair, student.cell, student.trial
    made = records.provenance.get(trial.provenance_id)
    return {
        "dataset": board.dataset,
        "protocol": board.protocol,
        "pair": pair.pair,
        "method": cell.method,
        "best": student.best,
        "checkpoint": trial.checkpoint or None,
        "trial_id": trial.trial_id,
        "seed": trial.seed,
        "tune_miou": _rounded(trial.tune_miou),
        "test_miou": _rounded(final_score(trial, records.counts)),
        "seeds": cell.seeds,
        "miou": _ends(cell.miou),
        "gain": None if cell.method == board.baseline else _ends(cell.gain),
        "surely": cell.surely,
        "claim": claim(board, cell) or None,
        "student_alone": _ends(pair.student_miou),
        "teacher_miou": _rounded(pair.teacher_miou),
        "recipe_hash": trial.recipe_hash,
        "compare": board.compare,
        "commit": made.commit if made else None,
        "config_hash": (made.config_hash or None) if made else None,
        "teacher_sha256": made.teacher_sha256.get(trial.teacher_id) if made else None,
        "card": card_text(board, records, pair, cell, trial),
    }


def _ends(estimate: Estimate | None) -> list[float | None] | None:
    """Mean, lower and upper end of the 95 % interval, from 0 to 1."""
    if estimate is None:
        return None
    return [_rounded(value) for value in (estimate.mean, estimate.low, estimate.high)]


def _rounded(value: float | None) -> float | None:
    """Ten significant digits; more would differ between machines that sum in another order."""
    return None if value is None else float(f"{value:.10g}")
