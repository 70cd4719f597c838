"""Chooses the test images of a gallery by a fixed rule, from the tables only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.leaderboard.entries import Board, PairSummary
from orchestrator.leaderboard.run_records import ImageCounts, RunRecords, TrialRecord
from orchestrator.leaderboard.selected_students import by_tune, finished_finals, select_students
from orchestrator.leaderboard.statistics import Reals, mean_iou

RULE = (
    "For each pair the method with the highest mean test mIoU, the student alone aside, and of the seeds that both have "
    "the one on which it has the best tune mIoU. A picture's gain is its own mIoU by that run less its mIoU by the "
    "student alone of the same seed. Shown are the pictures of the best, the median and the worst gain over the test "
    "split. A picture's mIoU is the mean over the classes that its label or its prediction has; the board's sums pixels "
    "over all pictures first."
)
"""The rule, as the page states it."""


@dataclass(frozen=True)
class ChosenPicture:
    """An image of the test split: why it was chosen, and its own mIoU by both runs, from 0 to 1."""

    reason: str
    picture: int
    method_miou: float
    alone_miou: float

    @property
    def gain(self) -> float:
        """mIoU of the method minus mIoU of the student alone."""
        return self.method_miou - self.alone_miou


@dataclass(frozen=True)
class PairGallery:
    """The gallery of one pair: two final runs of the same seed, and the chosen images."""

    board: Board
    pair: PairSummary
    method: TrialRecord
    alone: TrialRecord
    pictures: tuple[ChosenPicture, ...]


def pair_galleries(board: Board, records: RunRecords) -> Iterator[PairGallery]:
    """One gallery per pair on which a method and the student alone have a score with the same seed."""
    if board.baseline is None:
        return
    selected = select_students(board, records)
    for pair in board.pairs:
        mine = [t for t in selected if t.pair is pair and t.cell.method != board.baseline]
        alone = _by_seed(finished_finals(board, records, pair, board.baseline), records)
        for student in mine[:1]:
            method = _by_seed(finished_finals(board, records, pair, student.cell.method), records)
            both = [run for seed, run in method.items() if seed in alone]
            if not both:
                continue
            run = max(both, key=by_tune)
            pictures = choose_pictures(records.counts[run.trial_id], records.counts[alone[run.seed].trial_id])
            if pictures:
                yield PairGallery(board, pair, run, alone[run.seed], pictures)


def choose_pictures(method: ImageCounts, alone: ImageCounts) -> tuple[ChosenPicture, ...]:
    """The images of the best, the median and the worst gain, each image once; of equal gains the first image.

    With an even number of images, the median is the lower of the two in the middle.
    """
    scores = dict(zip(method.images.tolist(), _image_miou(method), strict=True))
    others = dict(zip(alone.images.tolist(), _image_miou(alone), strict=True))
    found = [
        ChosenPicture("", picture, float(scores[picture]), float(others[picture]))
        for picture in sorted(scores.keys() & others.keys())
        if not np.isnan(scores[picture] - others[picture])
    ]
    if not found:
        return ()
    rising = sorted(found, key=lambda chosen: (chosen.gain, chosen.picture))
    best = max(found, key=lambda chosen: (chosen.gain, -chosen.picture))
    wanted = {"best gain": best, "median gain": rising[(len(rising) - 1) // 2], "worst gain": rising[0]}
    shown: dict[int, ChosenPicture] = {}
    for reason, chosen in wanted.items():
        named = ChosenPicture(reason, chosen.picture, chosen.method_miou, chosen.alone_miou)
        shown.setdefault(chosen.picture, named)
    return tuple(shown.values())


def _by_seed(runs: Sequence[TrialRecord], records: RunRecords) -> dict[int, TrialRecord]:
    """Final runs with counts and weights, by seed; the latest one if a seed has several."""
    kept = (run for run in runs if run.checkpoint and run.trial_id in records.counts)
    return {run.seed: run for run in sorted(kept, key=lambda run: run.time_key)}


def _image_miou(counts: ImageCounts) -> Reals:
    """mIoU of each image, [N]; nan if no label is valid."""
    tp, fp, fn = counts.matrix.toarray().reshape(len(counts.images), 3, counts.classes).transpose(1, 0, 2)
    return mean_iou(tp, fp, fn)
