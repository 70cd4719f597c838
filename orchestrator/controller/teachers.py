"""Teachers: each one is found, trained or loaded once, and scored like any other model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.controller.loaded_teachers import read_checkpoint
from orchestrator.controller.phase_runner import PhaseView, run_phase
from orchestrator.controller.run_state import Run
from orchestrator.controller.wave_scheduler import WaveScheduler
from orchestrator.controller.worker_groups import WorkerGroupPool
from orchestrator.ledger.tables import Ledger
from orchestrator.ledger.weights import teacher_weights
from orchestrator.planning.equal_seconds import unmeasured
from orchestrator.planning.plan import Cohort, teacher_cohort
from orchestrator.planning.planned_models import Teacher

if TYPE_CHECKING:
    from distill.models.teachers import ReadTeacher


def anything_left(run: Run) -> bool:
    """Whether a teacher's weights or the cost of a method are missing, or a planned trial is not recorded."""
    cohorts = [*_cohorts(run), *run.plan.students]
    untrained = WaveScheduler(run.config, cohorts, run.recorded()).open_first()
    return bool(untrained or missing_teachers(run) or unmeasured(run.config))


def prepare_teachers(run: Run, *, groups: WorkerGroupPool, watch: Callable[[PhaseView], None]) -> None:
    """Put every teacher's weights into the run, by id, and its scores into the ledger.

    A teacher of the same id is copied from the shared folder (`operation.teachers`); a newly trained one is copied to it.
    """
    shared = Ledger(run.config.operation.teachers) if run.config.operation.teachers else None
    for teacher in run.plan.teachers:
        path = teacher_weights(teacher)
        if run.ledger.exists(path):
            continue
        if teacher.checkpoint is not None:
            run.ledger.write_bytes(path, _file_of(read_checkpoint(run.plan, teacher)))
        elif shared is not None and shared.exists(path):
            run.ledger.write_bytes(path, shared.read_bytes(path))
    run_phase(run, "teachers", _cohorts(run), groups=groups, watch=watch, later=len(run.plan.students))
    if shared is not None:
        for teacher in run.plan.teachers:
            path = teacher_weights(teacher)
            if run.ledger.exists(path) and not shared.exists(path):
                shared.write_bytes(path, run.ledger.read_bytes(path))


def _cohorts(run: Run) -> list[Cohort]:
    return [teacher_cohort(run.plan, teacher) for teacher in run.plan.teachers]


def missing_teachers(run: Run) -> list[Teacher]:
    """Teachers without weights: their training failed or was interrupted."""
    return [teacher for teacher in run.plan.teachers if not run.ledger.exists(teacher_weights(teacher))]


def teacher_hashes(run: Run) -> dict[str, str]:
    """sha256 of every teacher's file, by teacher id."""
    return {
        teacher.teacher_id: run.ledger.sha256(teacher_weights(teacher))
        for teacher in run.plan.teachers
        if run.ledger.exists(teacher_weights(teacher))
    }


def _file_of(read: ReadTeacher) -> bytes:
    from distill.models.teachers import save_teacher

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.safetensors"
        save_teacher(path, read.model, read.program)
        return path.read_bytes()
