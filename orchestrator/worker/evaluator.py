"""Scores students on the tune and test splits, and keeps weights and counts of final runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from distill.data import SegmentationDataset, licence_of
from distill.evaluation import Counts, Evaluation, merge_counts, task_metrics
from distill.models import SegmentationModel
from distill.models.costs import count_module, measure_latency
from distill.models.teachers import TeacherNetwork
from distill.recipe import digest
from distill.training import Student
from orchestrator.ledger.row_builders import count_rows
from orchestrator.ledger.tables import Ledger
from orchestrator.ledger.weights import save_student_model, trial_weights
from orchestrator.planning.plan import KEPT_PHASES, Trial
from orchestrator.protocol import CohortJob
from orchestrator.worker.data_parallel import Workers
from orchestrator.worker.student_slot import LoadedTeacher, StudentSlot


@dataclass(frozen=True)
class Score:
    """mIoU on tune. For a finished teacher or final run also mIoU on test and the path of its weights."""

    tune_miou: float
    test_miou: float | None
    weights: str | None


class Scoring:
    """An evaluation of some students on one or two splits, one after the other.

    Args:
        slots: of the students.
        splits: names of the splits.
        evaluation: begins the evaluation of a split.
    """

    def __init__(
        self, slots: Sequence[StudentSlot], splits: Sequence[str], evaluation: Callable[[str], Evaluation]
    ) -> None:
        self.slots = list(slots)
        self._left = list(splits)
        self._begin = evaluation
        self._now: Evaluation | None = None
        self._found: dict[str, list[Counts | Exception]] = {}

    def advance(self, batches: int) -> bool:
        """Evaluate up to this many batches; returns whether pictures are left."""
        for _ in range(batches):
            if not self._left:
                break
            if self._now is None:
                self._now = self._begin(self._left[0])
            if not self._now.advance():
                self._found[self._left.pop(0)] = self._now.counts()
                self.close()
        return bool(self._left)

    def shares(self) -> dict[str, list[Counts | Exception]]:
        """Counts of this worker's pictures by split, or errors, in the order of the slots."""
        return self._found

    def close(self) -> None:
        """End the threads that decode."""
        if self._now is not None:
            self._now.close()
            self._now = None


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error


def _scored_model(slot: StudentSlot) -> TeacherNetwork:
    assert slot.student is not None  # only students on the device are scored
    return slot.student.scored_model


class Evaluator:
    """Evaluates the students of a cohort. Search reads tune only: the first final run opens the test split.

    Args:
        job: the cohort.
        workers: the workers that train one student together; they share an evaluation.
        ledger: the run's.
    """

    def __init__(self, job: CohortJob, workers: Workers, ledger: Ledger) -> None:
        self._threads = max(1, job.operation.loader_workers)
        self._data = job.config.data[job.cohort.data]
        self._build = job.dataset
        self._recipe = job.cohort.recipe
        self._workers = workers
        self._ledger = ledger
        self._tune = self._build("tune")
        self._measured: set[str] = set()

    @cached_property
    def _test(self) -> SegmentationDataset:
        return self._build("test")

    def begin(
        self,
        slots: Sequence[StudentSlot],
        step: int,
        *,
        last: bool,
        move_to: Callable[[str | None, int], None],
    ) -> Scoring:
        """Begin to score students on tune, and at the last step of a teacher or final run also on test.

        Args:
            slots: of students on the device, all search runs or none. One that is scored in parts is alone.
            step: the students'.
            last: whether it is their last step.
            move_to: called with each trial before its part of a batch.
        """
        keeps = last and slots[0].trial.phase in KEPT_PHASES
        share = max(1, self._recipe.batch_size // self._workers.world_size)

        def evaluation(split: str) -> Evaluation:
            return Evaluation(
                [_scored_model(slot) for slot in slots],
                self._tune if split == "tune" else self._test,
                device=self._workers.device,
                batch_size=max(1, share // max(1, slots[0].scored_in)),
                rank=self._workers.rank,
                world_size=self._workers.world_size,
                precision=self._recipe.precision,
                window=self._recipe.sliding_window,
                threads=self._threads,
                before_model=lambda number: move_to(slots[number].trial.trial_id, step),
            )

        return Scoring(slots, ("tune", "test") if keeps else ("tune",), evaluation)

    def advance(self, scoring: Scoring, batches: int) -> bool:
        """Evaluate some batches; returns whether any worker has pictures left. Workers of a student call this together.

        Raises:
            UsageError: the data cannot be read, or a model does not take it.
        """
        outcome = self._workers.attempt(lambda: scoring.advance(batches))
        if isinstance(outcome, Exception):
            raise outcome
        return any(self._workers.gather(outcome))

    def scores(self, scoring: Scoring) -> list[Score | Exception]:
        """Of each student of a finished scoring, its score or the error that prevents one. Called as `advance`."""
        shares = scoring.shares()
        return [
            self._score(slot, {split: found[number] for split, found in shares.items()})
            for number, slot in enumerate(scoring.slots)
        ]

    def can_divide(self, slot: StudentSlot) -> bool:
        """Whether a student may be scored in smaller parts of a batch than it was."""
        return 2 * max(1, slot.scored_in) <= self._recipe.batch_size // self._workers.world_size

    def _score(self, slot: StudentSlot, shares: Mapping[str, Counts | Exception]) -> Score | Exception:
        own = next((share for share in shares.values() if isinstance(share, Exception)), None)
        failure = self._workers.attempt(partial(_raise, own))
        if isinstance(failure, Exception):
            return failure
        counts = {
            split: merge_counts(self._workers.gather(share))
            for split, share in shares.items()
            if isinstance(share, Counts)
        }
        student, trial = slot.student, slot.trial
        assert student is not None  # it was evaluated
        keeps = "test" in counts
        if keeps:
            size = self._workers.attempt(
                lambda: self._size(student.scored_model) if self._workers.is_rank_0 else None
            )
            if isinstance(size, Exception):
                return size
            if self._workers.is_rank_0:
                self._keep(trial, student, counts, size)
        test = task_metrics(counts["test"]).miou if keeps else None
        return Score(task_metrics(counts["tune"]).miou, test, trial_weights(trial) if keeps else None)

    def _keep(
        self,
        trial: Trial,
        student: Student | LoadedTeacher,
        counts: dict[str, Counts],
        size: tuple[str, dict[str, Any]] | None,
    ) -> None:
        """Write weights, counts per image and the model's size, each once under a name of its own."""
        if isinstance(student, Student):
            save_student_model(self._ledger, trial, student, self._test, licence_of(self._data))
        if size is not None:
            name, row = size
            self._ledger.append("models", [row], name)
        for split, found in counts.items():
            rows = count_rows(
                trial.trial_id, split, found.image_index, found.tp, found.fp, found.fn, self._test.classes
            )
            self._ledger.append("counts", rows, f"{trial.trial_id}-{split}")

    def _size(self, model: TeacherNetwork) -> tuple[str, dict[str, Any]] | None:
        """Row of a model's size and speed on one test picture, and the row's name; None if they were measured before."""
        height, width = self._test[0].image_hw3.shape[:2]
        made = (
            model.options.arguments() if isinstance(model, SegmentationModel) else model.description.network
        )
        options = {key: made[key] for key in made if key not in ("name", "num_classes")}
        name = f"model-{digest([model.info.name, made, height, width])}"
        if name in self._measured:
            return None
        self._measured.add(name)
        cost = count_module(model, height, width, self._workers.device)
        latency = measure_latency(model, height, width, device=self._workers.device)
        return name, {
            "name": model.info.name,
            "options": json.dumps(options, sort_keys=True),
            "num_classes": model.info.num_classes,
            "params": cost.params,
            "flops": cost.flops_forward,
            "height": height,
            "width": width,
            "latency_ms": latency.median_ms,
            "device": latency.device,
        }
