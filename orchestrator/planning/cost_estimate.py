"""What a plan would do and cost, before any of it is done. Pure arithmetic on the catalogue; no torch, no ray."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distill.catalogue.reader import check_model_name
from distill.catalogue_entries import ModelCost
from distill.errors import UsageError
from distill.recipe import Recipe
from distill.teacher_source import brings_network
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.method_settings import needs_teacher
from orchestrator.planning.model_costs import cost_of
from orchestrator.planning.plan import Cohort, Model, Phase, Plan, Teacher, Wave, teacher_cohort
from orchestrator.planning.prices import Price, price_of

# What small-batch training reaches in practice, a fraction of the peak; the truth is in the ledger after a run.
ASSUMED_FLOPS = {
    ("cpu", "fp32"): 15e9,
    ("cpu", "bf16"): 10e9,
    ("cuda", "fp32"): 10e12,
    ("cuda", "bf16"): 40e12,
}
BACKWARD = 2.0  # a backward pass counts as two forward passes
BYTES = 4
_PHASES: tuple[Phase, ...] = ("teacher", "search", "final")
COUNT_ROW_BYTES = 6  # a row of `counts`, compressed


@dataclass(frozen=True)
class Work:
    """Steps of a cohort: students' own, and passes of the teacher."""

    student_steps: int
    teacher_passes: int
    flops: float


def estimate(plan: Plan) -> dict[str, Any]:
    """Counts, cost and disk of a plan, as plain values for people and programs."""
    config = plan.config
    teachers = [teacher_cohort(plan, teacher) for teacher in plan.teachers if teacher.recipe is not None]
    cohorts = [*teachers, *plan.students]
    found = {phase: _phase(config, cohorts, phase) for phase in _PHASES}
    worker_hours = math.fsum(phase["worker_hours"] for phase in found.values())
    price = price_of(config.budget)
    return {
        "name": config.name,
        "plan_hash": plan.plan_hash,
        "protocol": config.protocol,
        "pairs": sorted({study.pair for study in plan.studies}),
        "methods": [method.title for method in config.methods],
        "studies": len(plan.studies),
        "trials_per_study": config.search.trials,
        "seeds": list(config.final.seeds),
        "sampler": config.search.sampler,
        "compute": config.compute.model_dump(),
        "phases": found,
        "uncounted_teachers": sorted(
            teacher.model.name for teacher in plan.teachers if not _countable(teacher)
        ),
        "worker_hours": round(worker_hours, 4),
        "price": None if price is None else asdict(price),
        "cost": None if price is None else round(price.cost(worker_hours), 2),
        "budget": config.budget.model_dump(exclude={"price"}),
        "assumed_flops_per_second": sorted({_speed(config, cohort.recipe) for cohort in cohorts}),
        "disk_bytes": _disk(config, cohorts),
    }


def render_estimate(found: dict[str, Any]) -> str:
    """The same for a person."""
    lines = [
        f"{found['name']} (plan {found['plan_hash']}, protocol {found['protocol']})",
        f"  pairs    {', '.join(found['pairs'])}",
        f"  methods  {', '.join(found['methods'])}",
        f"  {found['studies']} studies × {found['trials_per_study']} trials ({found['sampler']}), seeds {found['seeds']}",
        "",
        f"  {'phase':<10}{'trials':>8}{'student steps':>16}{'teacher passes':>16}{'worker-hours':>14}",
    ]
    for name, phase in found["phases"].items():
        hours = f"{phase['worker_hours']:.3f}"
        lines.append(
            f"  {name:<10}{phase['trials']:>8}{phase['student_steps']:>16,}{phase['teacher_passes']:>16,}{hours:>14}"
        )
    speeds = " and ".join(f"{speed / 1e9:g}" for speed in found["assumed_flops_per_second"])
    lines += [
        "",
        f"  about {found['worker_hours']:.2f} worker-hours, assuming {speeds} GFLOP/s per worker; starting up not counted",
        f"  disk     about {found['disk_bytes'] / 1e6:,.0f} MB at most",
    ]
    if found["price"] is not None:
        price = Price(**found["price"])
        lines.insert(
            -1,
            f"  cost     about {price.amount(found['worker_hours'])} at {price.hour:g} a worker-hour: {price.source}",
        )
    limits = ", ".join(f"{name} {value:g}" for name, value in found["budget"].items() if value is not None)
    if limits:
        lines.append(
            f"  budget   {limits}: at the first that is used up the sweep stops and keeps everything"
        )
    if found["uncounted_teachers"]:
        lines.append(
            f"  not in it: passes of {', '.join(found['uncounted_teachers'])}, which are not known yet"
        )
    return "\n".join(lines)


def _phase(config: SweepConfig, cohorts: Sequence[Cohort], phase: Phase) -> dict[str, Any]:
    waves = [(cohort, wave) for cohort in cohorts for wave in cohort.waves if wave.phase == phase]
    works = [_work(config, cohort, wave) for cohort, wave in waves]
    seconds = [w.flops / _speed(config, cohort.recipe) for (cohort, _), w in zip(waves, works, strict=True)]
    return {
        "trials": sum(wave.trials for _, wave in waves),
        "waves": len(waves),
        "student_steps": sum(work.student_steps for work in works),
        "teacher_passes": sum(work.teacher_passes for work in works),
        "worker_hours": round(math.fsum(seconds) / 3600, 4),
    }


def _work(config: SweepConfig, cohort: Cohort, wave: Wave) -> Work:
    steps, passes, flops = 0, 0, 0.0
    recipe = cohort.recipe
    for bracket in wave.brackets:
        own = sum(length * seated for length, seated in _segments(wave, bracket.size))
        steps += own
        cost = _cost(config, cohort.data, recipe, bracket.study.student)
        flops += own * recipe.batch_size * cost.flops_forward * (1 + BACKWARD)
    if cohort.teacher is not None and _taught(wave):
        passes = wave.steps
        if _countable(cohort.teacher):
            teacher = _cost(config, cohort.data, recipe, cohort.teacher.model)
            flops += passes * recipe.batch_size * teacher.flops_forward
    return Work(steps, passes, flops)


def _countable(teacher: Teacher) -> bool:
    """Whether a teacher's name says what its network is; one that came with its network may be called anything."""
    if not brings_network(teacher.checkpoint):
        return True
    try:
        check_model_name(teacher.model.name)
    except UsageError:
        return False
    return True


def _taught(wave: Wave) -> bool:
    return any(needs_teacher(bracket.study.method) for bracket in wave.brackets)


def _segments(wave: Wave, size: int) -> Iterator[tuple[int, int]]:
    """Steps between rungs, and how many of a bracket are seated then."""
    start, seated = 0, size
    for stop in (*wave.rungs, wave.steps):
        yield stop - start, seated
        start, seated = stop, math.ceil(seated / 2)


def _cost(config: SweepConfig, data: str, recipe: Recipe, model: Model) -> ModelCost:
    return cost_of(model, config.data[data].class_count, *recipe.augmentation.crop)


def _speed(config: SweepConfig, recipe: Recipe) -> float:
    compute = config.compute
    return ASSUMED_FLOPS[(compute.device, recipe.precision)] * (
        compute.cpus_per_worker if compute.device == "cpu" else 1
    )


def _disk(config: SweepConfig, cohorts: Sequence[Cohort]) -> int:
    """Weights that are kept, the largest checkpoints that stand at once, and the counts; an upper bound."""
    kept = checkpoints = counts = 0
    for cohort in cohorts:
        largest = 0
        for wave in cohort.waves:
            seated = 0
            for bracket in wave.brackets:
                cost = _cost(config, cohort.data, cohort.recipe, bracket.study.student)
                states = 2 if cohort.recipe.optimizer == "sgd" else 3
                seated += bracket.size * cost.params * BYTES * states
                if wave.phase != "search":
                    kept += bracket.size * cost.params * BYTES
                    rows = config.data[cohort.data].scored_images * config.data[cohort.data].class_count
                    counts += bracket.size * rows * COUNT_ROW_BYTES
            largest = max(largest, seated)
        checkpoints += largest * (config.operation.checkpoints_kept + 1)
    return kept + checkpoints + counts
