"""Memory of a worker, and FLOPs of a step, for the cost estimate. Imports neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from distill.catalogue.loss_costs import LayerNumbers, LossShapes, layer_numbers, loss_flops
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
BACKWARD = 2.0
"""FLOPs of a backward pass, relative to a forward pass."""
_FLOAT = 4
_LOSS_MAPS, _LOSS_BLOCK = 3, GIB  # maps of the task loss at image resolution, each of one block of pictures


@dataclass(frozen=True)
class StudentMemory:
    """Bytes that a worker needs for one student, by what needs them.

    Attributes:
        state: the student's weights, gradients, optimiser and averaged weights; it stays on the device.
        layers: the same of the method's own layers, and what the method remembers.
        teacher: the teacher's weights; they stay on the device.
        training: the student's activations, and the maps of the task loss.
        teacher_pass: peak of the teacher's pass.
        evaluation: peak of an evaluation of as many pictures, of the crop's size.
    """

    state: int
    layers: int
    teacher: int
    training: int
    teacher_pass: int
    evaluation: int

    @property
    def total(self) -> int:
        """Bytes for one student: what stays, and the largest of what does not."""
        return self.state + self.layers + self.teacher + self._passing

    @property
    def _passing(self) -> int:
        return max(self.training, self.teacher_pass, self.evaluation)

    def students_in(self, device_bytes: float) -> int:
        """How many such students fit on a device."""
        return max(
            0, int((_USABLE * device_bytes - self.teacher - self._passing) // (self.state + self.layers))
        )


def loss_flops_of(config: SweepConfig, recipe: Recipe, study: Study) -> float:
    """FLOPs of the method's loss in one step; 0 if the shapes of a model are not in the catalogue."""
    shapes = _loss_shapes(config, recipe, study)
    if shapes is None:
        return 0.0
    return loss_flops(study.method, all_settings(study.method, study.method_config), shapes)


def _loss_shapes(config: SweepConfig, recipe: Recipe, study: Study) -> LossShapes | None:
    try:
        student, teacher = (model_shapes(m.name, m.options) for m in (study.student, study.teacher.model))
    except UsageError:
        return None
    classes = config.data[study.data].class_count
    return LossShapes(student, teacher, classes, recipe.batch_size, *recipe.augmentation.crop)


def _layers(config: SweepConfig, recipe: Recipe, study: Study) -> LayerNumbers:
    shapes = _loss_shapes(config, recipe, study)
    if shapes is None:
        return LayerNumbers()
    return layer_numbers(study.method, all_settings(study.method, study.method_config), shapes)


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
    trained = 2 + (1 if recipe.optimizer == "sgd" else 2)  # a weight, its gradient, and the optimiser's state
    layers = _layers(config, recipe, study)
    maps = _LOSS_MAPS * min(classes * pixels / recipe.accumulate * _FLOAT, _LOSS_BLOCK)
    params = cost_of(student, classes, height, width).params
    copies = params * WEIGHT_COPY_BYTES[recipe.precision]
    weight = 2 if recipe.precision == "bf16" else _FLOAT
    return StudentMemory(
        state=params * _FLOAT * (trained + (recipe.ema_decay is not None)),
        layers=(layers.trained * trained + layers.remembered) * _FLOAT,
        teacher=cost_of(teacher, classes, height, width).params * weight,
        training=int(own.training * pixels / recipe.accumulate + maps + copies),
        teacher_pass=int(taught.inference * pixels),
        evaluation=int((own.inference + 2 * classes * _FLOAT) * pixels),
    )


def memory_of(plan: Plan) -> tuple[list[dict[str, Any]], list[str]]:
    """Memory of a worker for each pair and recipe with the method that needs most, and the models that are not in the table."""
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
        key = (*names, cohort.data, cohort.recipe.digest())
        if key in found and found[key]["layers_bytes"] >= memory.layers:
            continue
        found[key] = {
            "teacher": names[0],
            "student": names[1],
            "method": study.title,
            **{f"{name}_bytes": value for name, value in asdict(memory).items()},
            "total_bytes": memory.total,
            "students_by_gib": {str(size): memory.students_in(size * GIB) for size in DEVICES_GIB},
        }
    return list(found.values()), sorted(unknown)


def flops_of(plan: Plan, speed: Callable[[Recipe], float]) -> list[dict[str, Any]]:
    """FLOPs of a step for each pair and recipe: the student's, forward and backward, and each method's loss.

    Args:
        plan: the sweep's.
        speed: FLOP/s that a worker is assumed to reach with a recipe.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for cohort, study in _studies(plan):
        recipe, names = cohort.recipe, (study.teacher.model.name, study.student.name)
        key = (*names, cohort.data, recipe.digest())
        if key not in found:
            classes = plan.config.data[cohort.data].class_count
            own = cost_of(study.student, classes, *recipe.augmentation.crop).flops_forward
            found[key] = {
                "teacher": names[0],
                "student": names[1],
                "student_flops": recipe.batch_size * own * (1 + BACKWARD),
                "flops_per_second": speed(recipe),
                "losses": {},
            }
        found[key]["losses"][study.title] = loss_flops_of(plan.config, recipe, study)
    return list(found.values())


def flops_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Text of `flops_of`. Losses without products, and those below 2 % of the student's step, are not named."""
    lines = [
        "",
        "  operations of a step at the recipe's size, and its seconds at the assumed speed; the teacher's pass is shared and not in it",
        f"  {'pair':<60}{'GFLOP':>10}{'seconds':>18}   losses, GFLOP",
    ]
    for row in rows:
        own, most = row["student_flops"], max(row["losses"].values())
        named = [
            f"{title} {_short(flops / 1e9)}" for title, flops in row["losses"].items() if flops > own / 50
        ]
        low, high = (flops / row["flops_per_second"] for flops in (own, own + most))
        seconds = _short(low) if most <= own / 50 else f"{_short(low)} to {_short(high)}"
        lines.append(
            f"  {row['teacher'] + ' to ' + row['student']:<60}{_short(own / 1e9):>10}{seconds:>18}   "
            f"{', '.join(named) or 'all below 2 %'}"
        )
    return lines


def _short(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


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
            "  memory of a worker for one student (GiB) with the method whose own layers are largest, counted without a GPU and "
            "without the libraries' work spaces",
            f"  {'pair':<60}{'state':>7}{'layers':>8}{'training':>10}{'teacher':>9}{'scores':>8}{'in all':>8}   students in {sizes} GiB",
        ]
    for row in rows:
        cells = [
            row[f"{part}_bytes"] / GIB
            for part in ("state", "layers", "training", "teacher_pass", "evaluation", "total")
        ]
        fits = " / ".join(map(str, row["students_by_gib"].values()))
        pair = f"{row['teacher']} to {row['student']}"
        numbers = "".join(
            f"{value:>{width}.1f}" for value, width in zip(cells, (7, 8, 10, 9, 8, 8), strict=True)
        )
        method = f"  ({row['method']})" if row["layers_bytes"] else ""
        lines.append(f"  {pair:<60}{numbers}   {fits}{method}")
    if unknown:
        lines.append(
            f"  memory not known for {', '.join(unknown)}: the table is of models of the presets for GPUs"
        )
    return lines
