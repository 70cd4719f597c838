"""A student's training step on a watched device: batch, teacher pass, step and evaluation apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distill.models import ModelInfo, Output, SegmentationModel
from distill.normalisation import normalise
from distill.recipe import Recipe
from distill.testing.device_watch import Seen, Watch
from distill.testing.fake_cuda import CUDA, build_on_device
from distill.training import Batch, Student, StudentSpec, teacher_output


@dataclass(frozen=True)
class Case:
    """A pair with a method and a recipe, as a trial has them.

    Attributes:
        teacher: name of the teacher's model.
        student: name of the student's model.
        recipe: batch size, crop, precision and optimiser.
        method: name of the method, with its settings in `config`.
        num_classes: K.
        teacher_options: options of the teacher's model.
        student_options: options of the student's model.
    """

    teacher: str
    student: str
    recipe: Recipe
    method: str = "heteroakd"
    config: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int = 19
    teacher_options: Mapping[str, Any] = field(default_factory=dict)
    student_options: Mapping[str, Any] = field(default_factory=dict)


class WatchedTraining:
    """A student with its teacher on `cuda:0`, fake or real. Build it inside `fake_cuda()` or `real_cuda()`."""

    def __init__(self, case: Case, watch: Watch) -> None:
        self.case = case
        self._watch = watch
        model = build_on_device(case.teacher, case.num_classes, **case.teacher_options)
        self.teacher: SegmentationModel = model.eval().requires_grad_(False)
        self.student = make_student(case, self.teacher.info)

    def step(self) -> dict[str, Seen]:
        """One training step; returns what `data`, `teacher` and `student` did.

        Raises:
            Exception: the error of model or method.
        """
        self._watch.mark()
        images, labels = self.pictures()
        found = {"data": self._watch.mark()}
        output = self.teach(images)
        found["teacher"] = self._watch.mark()
        index = torch.zeros(len(images), dtype=torch.int64)
        self.student.train_step(Batch(images, labels, index, output))
        found["student"] = self._watch.mark()
        if self.student._failure is not None:
            raise self.student._failure
        return found

    def pictures(self) -> tuple[Tensor, Tensor]:
        """Normalised images and labels, made from bytes on the device as a worker makes them."""
        recipe = self.case.recipe
        size = (recipe.batch_size, *recipe.augmentation.crop)
        pixels = torch.zeros(*size, 3, dtype=torch.uint8, device=CUDA).permute(0, 3, 1, 2)
        images = normalise(pixels)
        if recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, torch.zeros(size, dtype=torch.uint8, device=CUDA).long()

    def teach(self, images: Tensor) -> Output | None:
        """The maps of the teacher's output that the method reads."""
        needs = self.student.method.needs
        if not needs:
            return None
        return Output.from_maps(teacher_output(self.teacher, images, self.case.recipe.precision).maps(needs))


def make_student(case: Case, teacher: ModelInfo) -> Student:
    """The student of a case on `cuda:0`."""
    return Student(spec_of(case), teacher, device=CUDA)


def spec_of(case: Case) -> StudentSpec:
    """The specification of a case's student."""
    return StudentSpec(
        case.student, case.student_options, case.method, case.config, case.recipe, 0, case.num_classes
    )
