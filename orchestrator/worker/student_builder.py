"""Builds the students of a wave: new, from their states on the host, or a loaded teacher that is only scored."""

from __future__ import annotations

import time
from dataclasses import replace

from torch import Tensor

from distill.random_state import RandomState
from distill.training import Student, StudentSpec
from orchestrator.ledger.tables import Ledger
from orchestrator.ledger.weights import load_saved_model, trial_weights
from orchestrator.planning.plan import Wave
from orchestrator.protocol import CohortJob
from orchestrator.worker.batch_feed import BatchFeed
from orchestrator.worker.carried_teacher import CarriedTeacher
from orchestrator.worker.data_parallel import Workers
from orchestrator.worker.student_placement import Placement
from orchestrator.worker.student_slot import LoadedTeacher, StudentSlot
from orchestrator.worker.watchdog import Watchdog


class StudentBuilder:
    """Builds students on this worker's device.

    Args:
        job: the cohort.
        workers: all workers of the cohort.
        together: the workers that train one student together.
        placement: of the students.
        feed: this worker's data and teacher.
        ledger: the run's.
        watchdog: this worker's.
        carried: gets a loaded teacher, for the cohort that follows.
    """

    def __init__(
        self,
        job: CohortJob,
        workers: Workers,
        together: Workers,
        placement: Placement,
        feed: BatchFeed,
        ledger: Ledger,
        watchdog: Watchdog,
        carried: CarriedTeacher,
    ) -> None:
        self.wave: Wave = job.cohort.waves[0]
        """The wave of the students that are built."""
        self._workers = workers
        self._together = together
        self._placement = placement
        self._feed = feed
        self._ledger = ledger
        self._watchdog = watchdog
        self._carried = carried
        self._prepared: dict[str, tuple[dict[str, Tensor], float]] = {}

    def build(self, slot: StudentSlot) -> None:
        """Build the slot's student: new, from its state on the host, or a loaded teacher that is only scored."""
        self._watchdog.move_to(slot.trial.trial_id, slot.step)
        state = slot.host_state
        weights = trial_weights(slot.trial)
        if state is None and slot.trial.phase == "teacher" and self._ledger.exists(weights):
            program = self.wave.brackets[0].study.teacher.sha256  # the cohort of a teacher has one trial
            model = load_saved_model(self._ledger, weights, program, self._workers.device)
            slot.student = LoadedTeacher(model)
            if program is None:  # a program that has run may run otherwise the next time
                self._carried.put(weights, model)
            slot.step = self.wave.steps
            return
        student = self._new_student(slot)
        if state is not None:
            student.load_state_dict(state)
        elif student.method.preparation is not None:
            self._prepare(slot, student, student.method.preparation)
        slot.student, slot.host_state = student, None

    def _prepare(self, slot: StudentSlot, student: Student, name: str) -> None:
        """What a method trains on the frozen teacher beforehand: once for all slots, whichever comes first."""
        if name not in self._prepared:
            begun = time.perf_counter()
            with RandomState(0, self._workers.device):
                batches = self._feed.preparation_batches(student.method.preparation_role)
                state = student.method.prepare(batches)
            self._prepared[name] = (state, time.perf_counter() - begun)
            slot.costs = replace(
                slot.costs, shared_seconds=slot.costs.shared_seconds + self._prepared[name][1]
            )
        state, seconds = self._prepared[name]
        student.method.use_prepared(state)
        slot.costs = replace(slot.costs, teacher_seconds=slot.costs.teacher_seconds + seconds)

    def _new_student(self, slot: StudentSlot) -> Student:
        trial, together = slot.trial, self._together
        recipe = trial.recipe.model_copy(update={"accumulate": trial.recipe.accumulate * slot.accumulate})
        if self._placement.is_partitioned and recipe.norm == "sync":  # one worker has the whole batch
            recipe = recipe.model_copy(update={"norm": "batch"})
        spec = StudentSpec(
            model=trial.student.name,
            options=trial.student.options,
            method=trial.method,
            method_config=trial.method_config,
            recipe=recipe,
            seed=trial.seed,
            num_classes=self._feed.train.num_classes,
        )
        return Student(
            spec, self._feed.teacher_info, device=together.device, rank=together.rank, reduce=together.reduce
        )
