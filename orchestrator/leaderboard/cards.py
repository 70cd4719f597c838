"""Model cards: what users of a pair's best student need to know."""

from __future__ import annotations

import json
from collections.abc import Iterator

import yaml

from orchestrator.leaderboard.comparison import BETTER, WORSE
from orchestrator.leaderboard.entries import Board, Cell, PairSummary
from orchestrator.leaderboard.markdown import code_block, code_span, escaped
from orchestrator.leaderboard.number_formats import (
    NOTHING,
    estimate,
    estimated_gain,
    measure,
    points,
    probability,
)
from orchestrator.leaderboard.run_records import RunRecords, TrialRecord
from orchestrator.leaderboard.scores import final_score
from orchestrator.leaderboard.texts import conditions, noise
from orchestrator.planning.equal_seconds import SECONDS

USE = "## Use"
"""Heading of the card's last section, which an export replaces by its own."""


def card_text(board: Board, records: RunRecords, pair: PairSummary, cell: Cell, trial: TrialRecord) -> str:
    """The card of one final run; `cell` is its method on the pair. The last section says how to load the weights."""
    return "\n".join(_lines(board, records, pair, cell, trial)) + "\n"


def _lines(
    board: Board, records: RunRecords, pair: PairSummary, cell: Cell, trial: TrialRecord
) -> Iterator[str]:
    score = final_score(trial, records.counts)
    yield from ("---", *_front_matter(board, pair, cell, score), "---", "")
    yield f"# {escaped(f'{pair.student} on {board.dataset}')}"
    yield ""
    is_alone = cell.method == board.baseline
    taught = "trained without a teacher" if is_alone else f"taught by {pair.teacher} with {cell.method}"
    best = max(c.miou.mean for (p, _), c in board.cells.items() if p == pair.pair and c.miou is not None)
    is_best = cell.miou is not None and cell.miou.mean >= best
    role = "the best student" if is_best else "a student"
    yield escaped(f"A semantic segmentation model, {taught}: {role} of the pair {pair.pair}.")
    yield from _scores(board, pair, cell, trial, score)
    found = claim(board, cell)
    yield from ("", *([f"**{escaped(found)}**", ""] if found else []), escaped(conditions(board)))
    counts = records.counts.get(trial.trial_id)
    if counts is not None:
        yield from ("", "## IoU by class", "", "| class | IoU |", "| --- | --- |")
        for name, value in zip(pair.class_names, counts.per_class(), strict=True):
            yield f"| {escaped(name)} | {points(float(value))} |"
    yield from _choice(board, is_best=is_best)
    yield from _training(records, trial, is_alone=is_alone)
    yield from ("", "## Limits", "")
    yield (
        f"The scores hold for {escaped(board.dataset)} and this recipe. Nothing is known of other data, other "
        "light, other cameras, or of fairness between people in the pictures."
    )
    if trial.checkpoint:
        yield from ("", USE, "", "The weights lie in the run's folder, and describe themselves:", "")
        loading = f"model, metadata = load_model({json.dumps(trial.checkpoint)})"
        yield from code_block(f"from distill.models import load_model\n\n{loading}", "python")


def claim(board: Board, cell: Cell) -> str:
    """Whether the method is surely better than the student alone on the pair; empty for the student itself."""
    if cell.method == board.baseline:
        return ""
    if cell.gain is None:
        return (
            "Nothing says that it is better than the student alone: there is no score of the student alone."
        )
    if cell.p is None:
        return f"Nothing says that it is surely better than the student alone: that needs at least two {noise(board)}."
    found = f"{cell.method} on {cell.pair}, gain {estimated_gain(cell.gain)} points, adjusted p {probability(cell.p)} on this pair"
    if cell.surely == BETTER:
        return f"Surely better than the student alone: {found}."
    if cell.surely == WORSE:
        return f"Surely worse than the student alone: {found}. The student alone needs no teacher."
    return f"Not surely better than the student alone, which needs no teacher: {found}."


def _scores(
    board: Board, pair: PairSummary, cell: Cell, trial: TrialRecord, score: float | None
) -> Iterator[str]:
    """The table of scores, sizes and times."""
    yield from ("", "| | |", "| --- | --- |")
    searched = f" of {board.searches} searches" if board.searches > 1 else ""
    facts = {
        "test mIoU of these weights": points(score),
        f"mean over {cell.seeds} seeds{searched}": estimate(cell.miou),
        "the student alone" + (", equally tuned" if board.trials[1] else ""): estimate(pair.student_miou),
        "gain over it, paired by seed": NOTHING
        if cell.method == board.baseline
        else estimated_gain(cell.gain),
        "the teacher": points(pair.teacher_miou),
        "parameters (M)": measure(pair.params, 1e-6),
        "GFLOPs": measure(pair.gflops),
        f"latency (ms{', ' + pair.device if pair.device else ''})": measure(pair.latency_ms),
        "test pictures": str(pair.pictures or NOTHING),
        "seed": str(trial.seed),
        "steps": str(trial.steps_done) + _basis(board, trial),
    }
    for name, fact in facts.items():
        yield f"| {escaped(name)} | {escaped(fact)} |"
    yield from (
        "",
        f"mIoU in points, with 95 % intervals over {noise(board)} where there are several, on the same test pictures.",
    )


def _basis(board: Board, trial: TrialRecord) -> str:
    """What the steps of the trial follow from, if the methods had equal seconds; otherwise empty."""
    if board.compare != SECONDS:
        return ""
    return f", as many as fit into the seconds of the student alone (a step costs {trial.step_cost or 1:g} times as much)"


def _choice(board: Board, *, is_best: bool) -> Iterator[str]:
    """How the method and the seed were selected."""
    yield from ("", "## How it was chosen", "")
    yield (
        f"Of {len(board.rows)} methods this one has the highest mean test mIoU on the pair, so that mean is "
        "a little too good where methods are close: see their rank intervals on the board. "
        if is_best
        else f"The method was asked for; another of the {len(board.rows)} has a higher mean test mIoU on the pair. "
    ) + (
        "Of its seeds it is the one with the best tune mIoU, so its own test score had no part in the choice."
    )
    if not board.ranked:
        yield from (
            "",
            "Off the protocol: tuned and scored on the same pictures, so the scores are too good.",
        )


def _training(records: RunRecords, trial: TrialRecord, *, is_alone: bool) -> Iterator[str]:
    """Recipe, hyper-parameters, code and command."""
    recipe = "" if trial.searched is None else ", then of the recipe"
    yield from (
        "",
        "## Training",
        "",
        f"Recipe {code_span(trial.recipe_hash)}. Settings of the method{recipe}, as used:",
        "",
    )
    yield from (
        [
            f"- {code_span(name)}: {code_span(json.dumps(value))}{', searched' if name in trial.drawn else ''}"
            for name, value in sorted(
                trial.params.items(), key=lambda item: (item[0].startswith("recipe."), item)
            )
        ]
        or ["none."]
    )
    record = records.provenance.get(trial.provenance_id)
    if record is not None and record.command:
        code = f"commit {(record.commit or 'unknown')[:12]}{', with uncommitted changes' if record.dirty else ''}"
        code += f", config {record.config_hash}" if record.config_hash else ""
        yield from ("", escaped(f"Made with {code} by"), "", *code_block(record.command, "sh"))
        sha256 = None if is_alone else record.teacher_sha256.get(trial.teacher_id)
        yield from ("", f"sha256 of the teacher's file: {code_span(sha256)}.") if sha256 else ()


def _front_matter(board: Board, pair: PairSummary, cell: Cell, score: float | None) -> list[str]:
    """The YAML header for model hubs: task, data set and score."""
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
