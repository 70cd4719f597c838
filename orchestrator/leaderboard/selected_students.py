"""Which trained student stands for a pair and a method, for who takes one away: the choice, and its file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.leaderboard.cards import card_text
from orchestrator.leaderboard.comparison import Estimate, final_score
from orchestrator.leaderboard.entries import Board, Cell, PairSummary
from orchestrator.leaderboard.run_records import RunRecords, TrialRecord

STUDENTS = "students.json"


@dataclass(frozen=True)
class SelectedStudent:
    """The final run that stands for one method on one pair; `best` marks the pair's best method."""

    board: Board
    pair: PairSummary
    cell: Cell
    trial: TrialRecord
    best: bool

    @property
    def card(self) -> str:
        """Where the model card of a best student lies, relative to the leaderboard."""
        return f"cards/{self.trial.trial_id}.md"


def taken_of(board: Board, evidence: RunRecords) -> tuple[SelectedStudent, ...]:
    """One final run per pair and method that has a score of its own; per pair in the order of mean test mIoU.

    The best method is the one with the highest mean test mIoU on the pair. Of a method's seeds the one with the best
    tune mIoU is taken: choosing it by its test score would make that score too good to be true.
    """
    found = []
    for pair in board.pairs:
        cells = [board.cells[pair.pair, row.method] for row in board.rows]
        scored = [cell for cell in cells if cell.miou is not None and cell.seeds > 0]
        # The board's order breaks ties, so equal ledgers choose alike.
        scored.sort(key=lambda cell: -(cell.miou.mean if cell.miou else 0.0))
        for place, cell in enumerate(scored):
            trial = _chosen(board, evidence, pair, cell)
            if trial is not None:
                found.append(SelectedStudent(board, pair, cell, trial, best=place == 0))
    return tuple(found)


def runs_of(board: Board, evidence: RunRecords, pair: PairSummary, method: str) -> list[TrialRecord]:
    """The finished final runs of a method on a pair of a board."""
    wanted = board.dataset, board.protocol, pair.pair, pair.recipe, method, "final", "ok"
    return [
        t
        for t in evidence.trials
        if (t.dataset, t.protocol, t.pair, t.recipe_hash, t.method, t.phase, t.status) == wanted
    ]


def by_tune(trial: TrialRecord) -> tuple[float, str]:
    """Sorts final runs by tune mIoU; the id breaks ties."""
    return trial.tune_miou or 0.0, trial.trial_id


def _chosen(board: Board, evidence: RunRecords, pair: PairSummary, cell: Cell) -> TrialRecord | None:
    return max(runs_of(board, evidence, pair, cell.method), key=by_tune, default=None)


def students_bytes(taken: Sequence[SelectedStudent], evidence: RunRecords) -> bytes:
    """The file that `python -m distill.export` reads: all taken students, with their rows and cards, as JSON."""
    records = [_record(student, evidence) for student in taken]
    return (json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _record(student: SelectedStudent, evidence: RunRecords) -> dict[str, Any]:
    board, pair, cell, trial = student.board, student.pair, student.cell, student.trial
    made = evidence.provenance.get(trial.provenance_id)
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
        "test_miou": _rounded(final_score(trial, evidence.counts)),
        "seeds": cell.seeds,
        "miou": _ends(cell.miou),
        "gain": None if cell.method == board.baseline else _ends(cell.gain),
        "student_alone": _ends(pair.student_miou),
        "teacher_miou": _rounded(pair.teacher_miou),
        "recipe_hash": trial.recipe_hash,
        "commit": made.commit if made else None,
        "config_hash": (made.config_hash or None) if made else None,
        "teacher_sha256": made.teacher_sha256.get(trial.teacher_id) if made else None,
        "card": card_text(board, evidence, pair, cell, trial),
    }


def _ends(estimate: Estimate | None) -> list[float | None] | None:
    """Mean, low and high end of the 95 % interval, from 0 to 1."""
    if estimate is None:
        return None
    return [_rounded(value) for value in (estimate.mean, estimate.low, estimate.high)]


def _rounded(value: float | None) -> float | None:
    """Ten significant digits: more would differ between machines that sum in another order."""
    return None if value is None else float(f"{value:.10g}")
