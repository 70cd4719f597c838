"""Model cards: what somebody must know who takes a pair's best student away from here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from orchestrator.leaderboard.comparison import final_score
from orchestrator.leaderboard.entries import Board, Cell, PairSummary
from orchestrator.leaderboard.evidence import Evidence, TrialRecord
from orchestrator.leaderboard.figures import NOTHING, estimate, estimated_gain, measure, points
from orchestrator.leaderboard.markdown import code_block, code_span, escaped


@dataclass(frozen=True)
class Card:
    """The card of one trial; `path` is relative to the leaderboard's folder."""

    trial_id: str
    pair: str
    method: str
    text: str

    @property
    def path(self) -> str:
        """Where the card lies, relative to the leaderboard."""
        return f"cards/{self.trial_id}.md"


def cards_of(board: Board, evidence: Evidence) -> tuple[Card, ...]:
    """A card for each pair's best student.

    The method is the one with the highest mean test mIoU on the pair. Of its seeds the one with the best tune
    mIoU is taken: choosing it by its test score would make that score too good to be true.
    """
    found = []
    for pair in board.pairs:
        cells = [board.cells[pair.pair, row.method] for row in board.rows]
        scored = [cell for cell in cells if cell.miou is not None and cell.seeds > 0]
        # The board's order breaks ties, so equal ledgers choose alike.
        best = max(scored, key=lambda cell: cell.miou.mean if cell.miou else 0.0, default=None)
        trial = _chosen(board, evidence, pair, best) if best else None
        if best is not None and trial is not None:
            text = "\n".join(_lines(board, evidence, pair, best, trial)) + "\n"
            found.append(Card(trial.trial_id, pair.pair, best.method, text))
    return tuple(found)


def _chosen(board: Board, evidence: Evidence, pair: PairSummary, cell: Cell) -> TrialRecord | None:
    wanted = board.dataset, board.protocol, pair.pair, pair.recipe, cell.method, "final", "ok"
    runs = [
        t
        for t in evidence.trials
        if (t.dataset, t.protocol, t.pair, t.recipe_hash, t.method, t.phase, t.status) == wanted
    ]
    return max(runs, key=lambda t: (t.tune_miou or 0.0, t.trial_id), default=None)


def _lines(
    board: Board, evidence: Evidence, pair: PairSummary, cell: Cell, trial: TrialRecord
) -> Iterator[str]:
    score = final_score(trial, evidence.counts)
    title = f"{pair.student} on {board.dataset}"
    yield from ("---", *_front_matter(board, pair, cell, score), "---", "")
    yield f"# {escaped(title)}"
    yield ""
    alone = cell.method == board.baseline
    taught = "trained without a teacher" if alone else f"taught by {pair.teacher} with {cell.method}"
    yield escaped(f"A semantic segmentation model, {taught}: the best student of the pair {pair.pair}.")
    yield from ("", "| | |", "| --- | --- |")
    facts = {
        "test mIoU of these weights": points(score),
        f"mean over {cell.seeds} seeds": estimate(cell.miou),
        "the student alone, equally tuned": estimate(pair.student_miou),
        "gain over it, paired by seed": NOTHING if alone else estimated_gain(cell.gain),
        "the teacher": points(pair.teacher_miou),
        "parameters (M)": measure(pair.params, 1e-6),
        "GFLOPs": measure(pair.gflops),
        f"latency (ms{', ' + pair.device if pair.device else ''})": measure(pair.latency_ms),
        "test pictures": str(pair.pictures or NOTHING),
        "seed": str(trial.seed),
        "steps": str(trial.steps_done),
    }
    for name, fact in facts.items():
        yield f"| {escaped(name)} | {escaped(fact)} |"
    yield from ("", "mIoU in points, with 95 % intervals over seeds where there are several.")
    counts = evidence.counts.get(trial.trial_id)
    if counts is not None:
        yield from ("", "## IoU by class", "", "| class | IoU |", "| --- | --- |")
        for name, value in zip(pair.class_names, counts.per_class(), strict=True):
            yield f"| {escaped(name)} | {points(float(value))} |"
    yield from ("", "## How it was chosen", "")
    yield (
        f"Of {len(board.rows)} methods this one has the highest mean test mIoU on the pair, so that mean is "
        "a little too good where methods are close: see their rank intervals on the board. Of its seeds it "
        "is the one with the best tune mIoU, so its own test score had no part in the choice."
    )
    if not board.ranked:
        yield from (
            "",
            "Off the protocol: tuned and scored on the same pictures, so the scores are too good.",
        )
    yield from (
        "",
        "## Training",
        "",
        f"Recipe {code_span(trial.recipe_hash)}; hyper-parameters of the method:",
        "",
    )
    yield from (
        [
            f"- {code_span(name)}: {code_span(json.dumps(value))}"
            for name, value in sorted(trial.params.items())
        ]
        or ["none."]
    )
    record = evidence.provenance.get(trial.provenance_id)
    if record is not None and record.command:
        code = f"commit {(record.commit or 'unknown')[:12]}{', with uncommitted changes' if record.dirty else ''}"
        yield from ("", escaped(f"Made with {code} by"), "", *code_block(record.command, "sh"))
    if trial.checkpoint:
        yield from ("", "## Use", "", "The weights lie in the run's folder, and describe themselves:", "")
        loading = f"model, metadata = load_model({json.dumps(trial.checkpoint)})"
        yield from code_block(f"from distill.models import load_model\n\n{loading}", "python")
    yield from ("", "## Limits", "")
    yield (
        f"The scores hold for {escaped(board.dataset)} and this recipe. Nothing is known of other data, other "
        "light, other cameras, or of fairness between people in the pictures."
    )


def _front_matter(board: Board, pair: PairSummary, cell: Cell, score: float | None) -> list[str]:
    """What model hubs read: YAML with task, data set and score."""
    name = f"{pair.student}-{cell.method}-{board.dataset}"
    result = {
        "task": {"type": "image-segmentation"},
        "dataset": {"name": board.dataset, "type": board.dataset},
        "metrics": [{"type": "mean_iou", "name": "test mIoU", "value": round(score or 0.0, 4)}],
    }
    front = {
        "tags": ["image-segmentation", "semantic-segmentation", "knowledge-distillation"],
        "datasets": [board.dataset],
        "metrics": ["mean_iou"],
        "model-index": [{"name": name, "results": [result]}],
    }
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True).splitlines()
