"""Memory of a worker, and FLOPs of losses, for the cost estimate. Imports neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from distill.catalogue.loss_costs import LossShapes, loss_flops
from distill.catalogue.model_memory import WEIGHT_COPY_BYTES, model_memory
from distill.catalogue.reader import model_shapes
from distill.errors import UsageError
from distill.recipe import Recipe
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.method_settings import all_settings
from orchestrator.planning.model_costs import cost_of
from orchestrator.planning.plan import Cohort, Plan, Study

GIB = 2**30
DEVICES_GIB = (24, 40, 80)
"""Memory of common GPUs."""
_USABLE = 0.9  # the rest is for libraries' work spaces and fragmentation
_FLOAT = 4
_LOSS_MAPS, _LOSS_BLOCK = 3, GIB  # maps of the task loss at image resolution, each of one block of pictures


@dataclass(frozen=True)
class StudentMemory:
    """Bytes that a worker needs for one student, by what needs them.

    Attributes:
        state: the student's weights, gradients, optimiser and averaged weights; it stays on the device.
        teacher: the teacher's weights; they stay on the device.
        training: the student's activations, and the maps of the task loss.
        teacher_pass: peak of the teacher's pass.
        evaluation: peak of an evaluation of as many pictures, of the crop's size.
    """

    state: int
    teacher: int
    training: int
    teacher_pass: int
    evaluation: int

    @property
    def total(self) -> int:
        """Bytes for one student: what stays, and the largest of what does not."""
        return self.state + self.teacher + self._passing

    @property
    def _passing(self) -> int:
        return max(self.training, self.teacher_pass, self.evaluation)

    def students_in(self, device_bytes: float) -> int:
        """How many such students fit on a device."""
        return max(0, int((_USABLE * device_bytes - self.teacher - self._passing) // self.state))


def loss_flops_of(config: SweepConfig, recipe: Recipe, study: Study) -> float:
    """FLOPs of the method's loss in one step; 0 if the shapes of a model are not in the catalogue."""
    try:
        student, teacher = (model_shapes(m.name, m.options) for m in (study.student, study.teacher.model))
    except UsageError:
        return 0.0
    classes = config.data[study.data].class_count
    shapes = LossShapes(student, teacher, classes, recipe.batch_size, *recipe.augmentation.crop)
    return loss_flops(study.method, all_settings(study.method, study.method_config), shapes)


def student_memory(config: SweepConfig, cohort: Cohort, study: Study) -> StudentMemory | None:
    """Memory of a study's student on one worker; None if a model is not in the table."""
    recipe, student, teacher = cohort.recipe, study.student, study.teacher.model
    own = model_memory(student.name, student.options, recipe.precision)
    taught = model_memory(teacher.name, teacher.options, recipe.precision)
    if own is None or taught is None:
        return None
    height, width = recipe.augmentation.crop
    classes = config.data[cohort.data].class_count
    together = config.compute.workers_of_a_student(has_teacher=True)
    pixels = recipe.batch_size * height * width / together
    states = 2 + (1 if recipe.optimizer == "sgd" else 2) + (recipe.ema_decay is not None)
    maps = _LOSS_MAPS * min(classes * pixels / recipe.accumulate * _FLOAT, _LOSS_BLOCK)
    params = cost_of(student, classes, height, width).params
    copies = params * WEIGHT_COPY_BYTES[recipe.precision]
    weight = 2 if recipe.precision == "bf16" else _FLOAT
    return StudentMemory(
        state=params * _FLOAT * states,
        teacher=cost_of(teacher, classes, height, width).params * weight,
        training=int(own.training * pixels / recipe.accumulate + maps + copies),
        teacher_pass=int(taught.inference * pixels),
        evaluation=int((own.inference + 2 * classes * _FLOAT) * pixels),
    )


def memory_of(plan: Plan) -> tuple[list[dict[str, Any]], list[str]]:
    """Memory of a worker for each pair and recipe, and the models that are not in the table."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    unknown: set[str] = set()
    for cohort, study in _studies(plan):
        names = (study.teacher.model.name, study.student.name)
        memory = student_memory(plan.config, cohort, study)
        if memory is None:
            unknown.update(
                model.name
                for model in (study.student, study.teacher.model)
                if model_memory(model.name, model.options, cohort.recipe.precision) is None
            )
            continue
        found[*names, cohort.data, cohort.recipe.digest()] = {
            "teacher": names[0],
            "student": names[1],
            **{f"{name}_bytes": value for name, value in asdict(memory).items()},
            "total_bytes": memory.total,
            "students_by_gib": {str(size): memory.students_in(size * GIB) for size in DEVICES_GIB},
        }
    return list(found.values()), sorted(unknown)


def _studies(plan: Plan) -> Iterable[tuple[Cohort, Study]]:
    for cohort in plan.students:
        for wave in cohort.waves:
            for bracket in wave.brackets:
                yield cohort, bracket.study


def memory_lines(rows: list[dict[str, Any]], unknown: list[str]) -> list[str]:
    """Text of `memory_of`."""
    lines = []
    if rows:
        sizes = "/".join(map(str, DEVICES_GIB))
        lines = [
            "",
            "  memory of a worker for one student (GiB), counted without a GPU; the method's own layers and the libraries' work spaces are not in it",
            f"  {'pair':<58}{'state':>7}{'training':>10}{'teacher':>9}{'scores':>8}{'in all':>8}   students in {sizes} GiB",
        ]
    for row in rows:
        cells = [
            row[f"{part}_bytes"] / GIB
            for part in ("state", "training", "teacher_pass", "evaluation", "total")
        ]
        fits = " / ".join(map(str, row["students_by_gib"].values()))
        pair = f"{row['teacher']} to {row['student']}"
        numbers = "".join(
            f"{value:>{width}.1f}" for value, width in zip(cells, (7, 10, 9, 8, 8), strict=True)
        )
        lines.append(f"  {pair:<58}{numbers}   {fits}")
    if unknown:
        lines.append(
            f"  memory not known for {', '.join(unknown)}: the table is of models of the presets for GPUs"
        )
    return lines
