"""Finds, trains or loads each teacher once; every one is scored like any other model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from distill.errors import UsageError
from orchestrator.ledger import Ledger
from orchestrator.phases import PhaseView, run_phase
from orchestrator.plan import Plan, Teacher, teacher_cohort, teacher_weights
from orchestrator.run import Run


def check_teachers(plan: Plan) -> None:
    """Looks for the teacher files that the config names.

    Raises:
        UsageError: a file is missing, is no safetensors file, or has another hash than demanded.
    """
    for teacher in plan.teachers:
        if teacher.checkpoint is not None:
            _checked_file(teacher)


def prepare_teachers(run: Run, *, at_once: int, watch: Callable[[PhaseView], None]) -> None:
    """Afterwards every teacher's weights lie in the run, by id, and its scores in the ledger.

    A teacher of the same id in the shared folder (`operation.teachers`) is taken from there, and a newly trained one
    put there.
    """
    shared = Ledger(run.config.operation.teachers) if run.config.operation.teachers else None
    for teacher in run.plan.teachers:
        path = teacher_weights(teacher)
        if run.ledger.exists(path):
            continue
        if teacher.checkpoint is not None:
            run.ledger.write_bytes(path, _checked_file(teacher))
        elif shared is not None and shared.exists(path):
            run.ledger.write_bytes(path, shared.read_bytes(path))
    cohorts = [teacher_cohort(run.plan, teacher) for teacher in run.plan.teachers]
    run_phase(run, "teachers", cohorts, at_once=at_once, watch=watch)
    if shared is not None:
        for teacher in run.plan.teachers:
            path = teacher_weights(teacher)
            if run.ledger.exists(path) and not shared.exists(path):
                shared.write_bytes(path, run.ledger.read_bytes(path))


def missing_teachers(run: Run) -> list[Teacher]:
    """Teachers without weights: their training failed or was cut."""
    return [teacher for teacher in run.plan.teachers if not run.ledger.exists(teacher_weights(teacher))]


def teacher_hashes(run: Run) -> dict[str, str]:
    """sha256 of every teacher's file, by teacher id."""
    return {
        teacher.teacher_id: hashlib.sha256(run.ledger.read_bytes(teacher_weights(teacher))).hexdigest()
        for teacher in run.plan.teachers
        if run.ledger.exists(teacher_weights(teacher))
    }


def _checked_file(teacher: Teacher) -> bytes:
    path = Path(str(teacher.checkpoint))
    if not path.is_file():
        raise UsageError(
            f"teacher checkpoint '{path}' does not exist; give the .safetensors file of an earlier run"
        )
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if teacher.sha256 is not None and found != teacher.sha256:
        raise UsageError(
            f"teacher checkpoint '{path}' has sha256 {found}, the config demands {teacher.sha256}"
        )
    return data
