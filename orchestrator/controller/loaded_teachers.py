"""Teachers that are loaded from a checkpoint: read, and checked against the data set. Imports no Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from distill.errors import UsageError
from distill.teacher_source import TransformersSource
from orchestrator.ledger.tables import Ledger
from orchestrator.ledger.weights import teacher_weights
from orchestrator.planning.plan import Plan
from orchestrator.planning.planned_models import Teacher

if TYPE_CHECKING:
    from distill.data import SegmentationDataset
    from distill.models.teachers import ReadTeacher


def check_teachers(plan: Plan, ledger: Ledger, *, fresh: bool, download: bool) -> None:
    """Read every checkpoint that the config names, and check its classes and the sizes of images it takes.

    A teacher whose weights are already in the run is not read again, so its checkpoint is not needed to resume.

    Args:
        plan: the plan.
        ledger: the run.
        fresh: whether the weights in the run will be deleted.
        download: whether to download checkpoints from the Hugging Face hub; otherwise they are not checked.

    Raises:
        UsageError: a checkpoint is missing, has another hash than demanded, or does not fit the data set.
    """
    problems = []
    for teacher in loaded_teachers(plan):
        known = not fresh and ledger.exists(teacher_weights(teacher))
        if known or (is_on_hub(teacher) and not download):
            continue
        try:
            read_checkpoint(plan, teacher)
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))


def loaded_teachers(plan: Plan) -> Iterator[Teacher]:
    """The teachers that have a checkpoint."""
    return (teacher for teacher in plan.teachers if teacher.checkpoint is not None)


def is_on_hub(teacher: Teacher) -> bool:
    """Whether the checkpoint is a name on the Hugging Face hub."""
    source = teacher.checkpoint
    return isinstance(source, TransformersSource) and not os.path.isabs(source.path)


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
