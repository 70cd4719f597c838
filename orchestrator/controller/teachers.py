"""Teachers: each one is found, trained or loaded once, and scored like any other model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.controller.phase_runner import PhaseView, run_phase
from orchestrator.controller.run_state import Run
from orchestrator.controller.wave_scheduler import WaveScheduler
from orchestrator.controller.worker_groups import WorkerGroupPool
from orchestrator.ledger.tables import Ledger
from orchestrator.ledger.weights import teacher_weights
from orchestrator.planning.plan import Cohort, Plan, Teacher, teacher_cohort

if TYPE_CHECKING:
    from distill.data import SegmentationDataset
    from distill.models.teachers import ReadTeacher


def check_teachers(plan: Plan, ledger: Ledger, *, fresh: bool) -> None:
    """Read every checkpoint that the config names, and check its classes and the sizes of images it takes.

    A teacher whose weights are already in the run is not read again, so its checkpoint is not needed to resume.

    Raises:
        UsageError: a checkpoint is missing, has another hash than demanded, or does not fit the data set.
    """
    for teacher in plan.teachers:
        if teacher.checkpoint is not None and (fresh or not ledger.exists(teacher_weights(teacher))):
            read_checkpoint(plan, teacher)


def anything_left(run: Run) -> bool:
    """Whether a teacher's weights are missing, or a planned trial is not recorded."""
    cohorts = [*_cohorts(run), *run.plan.students]
    return bool(missing_teachers(run) or WaveScheduler(run.config, cohorts, run.recorded()).open_first())


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


def read_checkpoint(plan: Plan, teacher: Teacher) -> ReadTeacher:
    """The teacher from its checkpoint, checked on images of the sizes that it will get; raises as `check_teachers` does."""
    from distill.data import build_dataset
    from distill.models.teachers import read_teacher, representative_sizes

    assert teacher.checkpoint is not None  # callers ask for loaded teachers only
    config = plan.config
    test = build_dataset(
        config.data[teacher.data], "test", protocol=config.protocol, copies=config.operation.remote_copies
    )
    taught = [study for study in plan.studies if study.teacher.teacher_id == teacher.teacher_id]
    crops = [study.recipe.augmentation.crop for study in taught]
    sizes = dict.fromkeys([*crops, *representative_sizes(_picture_sizes(test))])
    return read_teacher(
        teacher.model.name,
        teacher.checkpoint,
        classes=test.classes,
        class_map=teacher.class_map,
        sizes=list(sizes),
        sha256=teacher.sha256,
    )


def _picture_sizes(dataset: SegmentationDataset) -> set[tuple[int, int]]:
    """Heights and widths of a split's pictures, from their headers; of a bucket, those of `SAMPLE` pictures."""
    from distill.data.bucket import prefetched
    from distill.data.check import SAMPLE
    from distill.data.disk import DiskDataset
    from distill.data.images import BrokenFileError, read_header
    from distill.data.roots import is_remote

    if not isinstance(dataset, DiskDataset):
        height, width = dataset[0].image_hw3.shape[:2]
        return {(height, width)}
    step = max(1, len(dataset) // SAMPLE) if is_remote(dataset.pairs[0].image) else 1
    sizes = set()
    for pair in prefetched((pair, (pair.image,)) for pair in dataset.pairs[::step]):
        with suppress(BrokenFileError):  # the check of the data set reports it
            header = read_header(pair.image)
            sizes.add((header.height, header.width))
    return sizes


def _file_of(read: ReadTeacher) -> bytes:
    from distill.models.teachers import save_teacher

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.safetensors"
        save_teacher(path, read.model, read.program)
        return path.read_bytes()
