"""Which test pictures a gallery shows, by a stated rule, from the tables alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.leaderboard.entries import Board, PairSummary
from orchestrator.leaderboard.run_records import ImageCounts, RunRecords, TrialRecord
from orchestrator.leaderboard.selected_students import by_tune, runs_of, taken_of
from orchestrator.leaderboard.statistics import Reals, mean_iou

RULE = (
    "For each pair the method with the highest mean test mIoU, the student alone aside, and of the seeds that both have "
    "the one on which it has the best tune mIoU. A picture's gain is its own mIoU by that run less its mIoU by the "
    "student alone of the same seed. Shown are the pictures of the best, the median and the worst gain over the test "
    "split. A picture's mIoU is the mean over the classes that its label or its prediction has; the board's sums pixels "
    "over all pictures first."
)
"""The rule in words, as the page states it."""


@dataclass(frozen=True)
class Chosen:
    """A picture of the test split: why it was chosen, and its own mIoU, from 0 to 1, by both runs."""

    reason: str
    picture: int
    method_miou: float
    alone_miou: float

    @property
    def gain(self) -> float:
        """The method's mIoU on it less that of the student alone."""
        return self.method_miou - self.alone_miou


@dataclass(frozen=True)
class PairGallery:
    """What is shown of a pair: two final runs of one seed, and pictures."""

    board: Board
    pair: PairSummary
    method: TrialRecord
    alone: TrialRecord
    pictures: tuple[Chosen, ...]


def exhibits_of(board: Board, evidence: RunRecords) -> Iterator[PairGallery]:
    """One exhibit per pair on which a method and the student alone have scored a seed both."""
    if board.baseline is None:
        return
    taken = taken_of(board, evidence)
    for pair in board.pairs:
        mine = [t for t in taken if t.pair is pair and t.cell.method != board.baseline]
        alone = _by_seed(runs_of(board, evidence, pair, board.baseline), evidence)
        for student in mine[:1]:
            method = _by_seed(runs_of(board, evidence, pair, student.cell.method), evidence)
            both = [run for seed, run in method.items() if seed in alone]
            if not both:
                continue
            run = max(both, key=by_tune)
            pictures = choose(evidence.counts[run.trial_id], evidence.counts[alone[run.seed].trial_id])
            if pictures:
                yield PairGallery(board, pair, run, alone[run.seed], pictures)


def choose(method: ImageCounts, alone: ImageCounts) -> tuple[Chosen, ...]:
    """The pictures of the best, the median and the worst gain; of equal ones the first, of few each once.

    With an even number of pictures the lower of the two in the middle is the median.
    """
    scores = dict(zip(method.images.tolist(), _per_picture(method), strict=True))
    others = dict(zip(alone.images.tolist(), _per_picture(alone), strict=True))
    found = [
        Chosen("", picture, float(scores[picture]), float(others[picture]))
        for picture in sorted(scores.keys() & others.keys())
        if not np.isnan(scores[picture] - others[picture])
    ]
    if not found:
        return ()
    rising = sorted(found, key=lambda chosen: (chosen.gain, chosen.picture))
    best = max(found, key=lambda chosen: (chosen.gain, -chosen.picture))
    wanted = {"best gain": best, "median gain": rising[(len(rising) - 1) // 2], "worst gain": rising[0]}
    shown: dict[int, Chosen] = {}
    for reason, chosen in wanted.items():
        named = Chosen(reason, chosen.picture, chosen.method_miou, chosen.alone_miou)
        shown.setdefault(chosen.picture, named)
    return tuple(shown.values())


def _by_seed(runs: Sequence[TrialRecord], evidence: RunRecords) -> dict[int, TrialRecord]:
    """Final runs with counts and weights by seed; of several of one seed the latest."""
    kept = (run for run in runs if run.checkpoint and run.trial_id in evidence.counts)
    return {run.seed: run for run in sorted(kept, key=lambda run: run.place_in_time)}


def _per_picture(counts: ImageCounts) -> Reals:
    """Each picture's own mIoU, [N]; nan where neither label nor prediction has a class."""
    tp, fp, fn = counts.matrix.toarray().reshape(len(counts.images), 3, counts.classes).transpose(1, 0, 2)
    return mean_iou(tp, fp, fn)
