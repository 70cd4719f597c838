"""Scores students on the tune and test splits, and keeps weights and counts of final runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distill.data import SegmentationDataset, licence_of
from distill.errors import UsageError
from distill.evaluation import Counts, evaluate, merge_counts, task_metrics
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
from orchestrator.worker.student_slot import LoadedTeacher


@dataclass(frozen=True)
class Score:
    """mIoU on tune. For a finished teacher or final run also mIoU on test and the path of its weights."""

    tune_miou: float
    test_miou: float | None
    weights: str | None


class Evaluator:
    """Evaluates the students of a cohort. Search reads tune only: the first final run opens the test split.

    Args:
        job: the cohort.
        workers: the workers that train one student together; they share an evaluation.
        ledger: the run's.
        on_batch: called after each batch.
    """

    def __init__(
        self, job: CohortJob, workers: Workers, ledger: Ledger, on_batch: Callable[[], None]
    ) -> None:
        self._on_batch = on_batch
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

    def score(self, trial: Trial, student: Student | LoadedTeacher, *, last: bool) -> Score | Exception:
        """Evaluate a student on tune, and at the last step of a teacher or final run also on test.

        Returns:
            Its score, or the error that prevents one.

        Raises:
            UsageError: the data cannot be read.
        """
        keeps = last and trial.phase in KEPT_PHASES
        shares = self._workers.attempt(
            lambda: {
                split: self._share(student, self._tune if split == "tune" else self._test)
                for split in (("tune", "test") if keeps else ("tune",))
            }
        )
        if isinstance(shares, UsageError):
            raise shares
        if isinstance(shares, Exception):
            return shares
        counts = {split: merge_counts(self._workers.gather(share)) for split, share in shares.items()}
        if keeps:
            size = self._workers.attempt(
                lambda: self._size(student.scored_model) if self._workers.is_rank_0 else None
            )
            if isinstance(size, Exception):
                return size
            if self._workers.is_rank_0:
                self._keep(trial, student, counts, size)
        test = task_metrics(counts["test"]).miou if "test" in counts else None
        return Score(task_metrics(counts["tune"]).miou, test, trial_weights(trial) if keeps else None)

    def _share(self, student: Student | LoadedTeacher, dataset: SegmentationDataset) -> Counts:
        return evaluate(
            student.scored_model,
            dataset,
            device=self._workers.device,
            batch_size=max(1, self._recipe.batch_size // self._workers.world_size),
            rank=self._workers.rank,
            world_size=self._workers.world_size,
            precision=self._recipe.precision,
            window=self._recipe.sliding_window,
            on_batch=self._on_batch,
        )

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
        made = vars(model.options) if isinstance(model, SegmentationModel) else model.description.network
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
