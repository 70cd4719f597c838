"""Chooses the test images of a gallery by a fixed rule, from the tables only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.leaderboard.entries import Board, PairSummary
from orchestrator.leaderboard.run_records import ImageCounts, RunRecords, TrialRecord
from orchestrator.leaderboard.selected_students import by_tune, finished_finals, select_students
from orchestrator.leaderboard.statistics import Reals, mean_iou

FIRST = 3
"""Number of pictures of a pair on the first page: best, median and worst gain. A page of one run has further ones."""

RULE = (
    "For each pair the method with the highest mean test mIoU, the student alone aside, and of the seeds that both have "
    "the one on which it has the best tune mIoU. A picture's gain is its own mIoU by that run less its mIoU by the "
    "student alone of the same seed. Shown are the pictures of the best, the median and the worst gain over the test "
    "split, and on the page of a run further ones, evenly spaced in the order of gain. All runs of a pair are shown on the "
    "same pictures. A picture's mIoU is the mean over the classes that its label or its prediction has; the board's sums "
    "pixels over all pictures first."
)
"""The rule, as the page states it."""


@dataclass(frozen=True)
class ChosenPicture:
    """An image of the test split: why it was chosen, and its own mIoU by both runs, from 0 to 1.

    `chosen_by` names the run whose gains decided the choice, if it is another one than the run that is shown.
    """

    reason: str
    picture: int
    method_miou: float
    alone_miou: float
    chosen_by: str = ""

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

    @property
    def run(self) -> str:
        """Method and seed."""
        return f"{self.method.method}, seed {self.method.seed}"


def pair_galleries(board: Board, records: RunRecords, number: int = FIRST) -> Iterator[PairGallery]:
    """One gallery per pair on which a method and the student alone have a score with the same seed.

    It has `number` pictures, if the test split has so many; those of the first page come first.
    """
    if board.baseline is None:
        return
    selected = select_students(board, records)
    for pair in board.pairs:
        mine = [t for t in selected if t.pair is pair and t.cell.method != board.baseline]
        for student in mine[:1]:
            both = runs_beside_student(board, records, pair, student.cell.method)
            if not both:
                continue
            run, beside = max(both, key=lambda runs: by_tune(runs[0]))
            pictures = choose_pictures(records.counts[run.trial_id], records.counts[beside.trial_id], number)
            if pictures:
                yield PairGallery(board, pair, run, beside, pictures)


def runs_beside_student(
    board: Board, records: RunRecords, pair: PairSummary, method: str
) -> list[tuple[TrialRecord, TrialRecord]]:
    """The final runs of a method in the order of their seeds, each with that of the student alone with its seed."""
    assert board.baseline is not None
    alone = _by_seed(finished_finals(board, records, pair, board.baseline), records)
    runs = _by_seed(finished_finals(board, records, pair, method), records)
    return [(run, alone[seed]) for seed, run in sorted(runs.items()) if seed in alone]


def choose_pictures(
    method: ImageCounts, alone: ImageCounts, number: int = FIRST
) -> tuple[ChosenPicture, ...]:
    """The images of the best, the median and the worst gain, each image once; of equal gains the first image.

    With an even number of images, the median is the lower of the two in the middle. If `number` is larger, further images
    follow, from the best to the worst gain, at even distances in this order.
    """
    found = scored_images(method, alone)
    if not found:
        return ()
    rising = sorted(found, key=lambda chosen: (chosen.gain, chosen.picture))
    falling = sorted(found, key=lambda chosen: (-chosen.gain, chosen.picture))
    wanted = [
        ("best gain", falling[0]),
        ("median gain", rising[(len(rising) - 1) // 2]),
        ("worst gain", rising[0]),
    ]
    places = np.linspace(0, len(falling) - 1, number if number > FIRST else 0).round().astype(int)
    wanted += [(f"gain {place + 1} of {len(falling)}", falling[place]) for place in places]
    shown: dict[int, ChosenPicture] = {}
    for reason, chosen in wanted:
        if len(shown) < number:
            shown.setdefault(chosen.picture, replace(chosen, reason=reason))
    return tuple(shown.values())


def scored_images(method: ImageCounts, alone: ImageCounts) -> list[ChosenPicture]:
    """The images on which both runs have a score."""
    scores = dict(zip(method.images.tolist(), _image_miou(method), strict=True))
    others = dict(zip(alone.images.tolist(), _image_miou(alone), strict=True))
    return [
        ChosenPicture("", picture, float(scores[picture]), float(others[picture]))
        for picture in sorted(scores.keys() & others.keys())
        if not np.isnan(scores[picture] - others[picture])
    ]


def _by_seed(runs: Sequence[TrialRecord], records: RunRecords) -> dict[int, TrialRecord]:
    """Final runs with counts and weights, by seed; the latest one if a seed has several."""
    kept = (run for run in runs if run.checkpoint and run.trial_id in records.counts)
    return {run.seed: run for run in sorted(kept, key=lambda run: run.time_key)}


def _image_miou(counts: ImageCounts) -> Reals:
    """mIoU of each image, [N]; nan if no label is valid."""
    tp, fp, fn = counts.matrix.toarray().reshape(len(counts.images), 3, counts.classes).transpose(1, 0, 2)
    return mean_iou(tp, fp, fn)
