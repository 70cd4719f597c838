"""What a plan would do and cost, before any of it is done. Pure arithmetic on the catalogue; no torch, no ray."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distill.catalogue import ModelCost, model_cost
from distill.errors import UsageError
from distill.recipe import Recipe
from orchestrator.choices import needs_teacher
from orchestrator.config import SweepConfig
from orchestrator.plan import Cohort, Model, Plan, Wave, final_cohorts, teacher_cohort

# What small-batch training reaches in practice, a fraction of the peak; the truth is in the ledger after a run.
ASSUMED_FLOPS = {
    ("cpu", "fp32"): 15e9,
    ("cpu", "bf16"): 10e9,
    ("cuda", "fp32"): 10e12,
    ("cuda", "bf16"): 40e12,
}
BACKWARD = 2.0  # a backward pass counts as two forward passes
BYTES = 4
COUNT_ROW_BYTES = 6  # a row of `counts`, compressed


@dataclass(frozen=True)
class Work:
    """Steps of a cohort: students' own, and passes of the teacher."""

    student_steps: int
    teacher_passes: int
    flops: float | None


def estimate(plan: Plan) -> dict[str, Any]:
    """Counts, cost and disk of a plan, as plain values for people and programs."""
    config = plan.config
    teachers = [teacher_cohort(plan, teacher) for teacher in plan.teachers if teacher.recipe is not None]
    phases = {
        "teachers": teachers,
        "search": list(plan.search),
        "final": list(final_cohorts(config, plan.studies)),
    }
    found = {name: _phase(config, cohorts) for name, cohorts in phases.items()}
    hours = [phase["worker_hours"] for phase in found.values()]
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
        "worker_hours": None if None in hours else round(math.fsum(hours), 4),
        "assumed_flops_per_second": {name: _speed(config, c[0].recipe) for name, c in phases.items() if c},
        "uncounted_models": sorted(
            {m for cohorts in phases.values() for c in cohorts for m in _uncounted(config, c)}
        ),
        "disk_bytes": _disk(config, phases),
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
        hours = "unknown" if phase["worker_hours"] is None else f"{phase['worker_hours']:.3f}"
        lines.append(
            f"  {name:<10}{phase['trials']:>8}{phase['student_steps']:>16,}{phase['teacher_passes']:>16,}{hours:>14}"
        )
    total = found["worker_hours"]
    lines.append("")
    if total is not None:
        speed = ", ".join(
            f"{name} {value / 1e9:g}" for name, value in found["assumed_flops_per_second"].items()
        )
        lines.append(
            f"  about {total:.2f} worker-hours, assuming GFLOP/s per worker: {speed}; starting up not counted"
        )
    if found["uncounted_models"]:
        lines.append(f"  no cost is known for: {', '.join(found['uncounted_models'])}")
    disk = found["disk_bytes"]
    lines.append("  disk     unknown" if disk is None else f"  disk     about {disk / 1e6:,.0f} MB at most")
    return "\n".join(lines)


def _phase(config: SweepConfig, cohorts: Sequence[Cohort]) -> dict[str, Any]:
    works = [_work(config, cohort) for cohort in cohorts]
    hours: float | None = 0.0
    for cohort, work in zip(cohorts, works, strict=True):
        if work.flops is None or hours is None:
            hours = None
        else:
            hours += work.flops / _speed(config, cohort.recipe) / 3600
    return {
        "trials": sum(cohort.trials for cohort in cohorts),
        "cohorts": len(cohorts),
        "student_steps": sum(work.student_steps for work in works),
        "teacher_passes": sum(work.teacher_passes for work in works),
        "worker_hours": None if hours is None else round(hours, 4),
    }


def _work(config: SweepConfig, cohort: Cohort) -> Work:
    steps, passes, flops = 0, 0, 0.0
    known = True
    teacher = (
        None if cohort.teacher is None else _cost(config, cohort.data, cohort.recipe, cohort.teacher.model)
    )
    for wave in cohort.waves:
        for bracket in wave.brackets:
            own = sum(length * seated for length, seated in _segments(cohort, bracket.size))
            steps += own
            cost = _cost(config, cohort.data, cohort.recipe, bracket.study.student)
            known = known and cost is not None
            flops += (
                0 if cost is None else own * cohort.recipe.batch_size * cost.flops_forward * (1 + BACKWARD)
            )
        if cohort.teacher is not None and _taught(wave):
            passes += cohort.recipe.steps
            known = known and teacher is not None
            flops += (
                0
                if teacher is None
                else cohort.recipe.steps * cohort.recipe.batch_size * teacher.flops_forward
            )
    return Work(steps, passes, flops if known else None)


def _taught(wave: Wave) -> bool:
    return any(needs_teacher(bracket.study.method) for bracket in wave.brackets)


def _segments(cohort: Cohort, size: int) -> Iterator[tuple[int, int]]:
    """Steps between rungs, and how many of a bracket are seated then."""
    start, seated = 0, size
    for stop in (*cohort.rungs, cohort.recipe.steps):
        yield stop - start, seated
        start, seated = stop, math.ceil(seated / 2) if stop in cohort.rungs else seated


def _cost(config: SweepConfig, data: str, recipe: Recipe, model: Model) -> ModelCost | None:
    height, width = recipe.augmentation.crop
    try:
        return model_cost(model.name, model.options, _classes(config, data), height, width)
    except UsageError:
        return None  # a variant by backbone_args that the catalogue does not hold; named in the estimate


def _classes(config: SweepConfig, data: str) -> int:
    return int(getattr(config.data[data], "classes", 19))


def _uncounted(config: SweepConfig, cohort: Cohort) -> Iterator[str]:
    models = [bracket.study.student for wave in cohort.waves for bracket in wave.brackets]
    for model in models + ([] if cohort.teacher is None else [cohort.teacher.model]):
        if _cost(config, cohort.data, cohort.recipe, model) is None:
            yield model.name


def _speed(config: SweepConfig, recipe: Recipe) -> float:
    compute = config.compute
    return ASSUMED_FLOPS[(compute.device, recipe.precision)] * (
        compute.cpus_per_worker if compute.device == "cpu" else 1
    )


def _disk(config: SweepConfig, phases: dict[str, list[Cohort]]) -> int | None:
    """Weights that are kept, the largest checkpoints that stand at once, and the counts; an upper bound."""
    kept = checkpoints = counts = 0
    for name, cohorts in phases.items():
        for cohort in cohorts:
            for wave in cohort.waves:
                seated = 0
                for bracket in wave.brackets:
                    cost = _cost(config, cohort.data, cohort.recipe, bracket.study.student)
                    if cost is None:
                        return None
                    states = 2 if cohort.recipe.optimizer == "sgd" else 3
                    seated += bracket.size * cost.params * BYTES * states
                    if name != "search":
                        kept += bracket.size * cost.params * BYTES
                        counts += (
                            bracket.size
                            * _images(config, cohort.data)
                            * _classes(config, cohort.data)
                            * COUNT_ROW_BYTES
                        )
                checkpoints = max(checkpoints, seated * (config.operation.checkpoints_kept + 1))
    return kept + checkpoints + counts


def _images(config: SweepConfig, data: str) -> int:
    found = config.data[data]
    return int(getattr(found, "tune", 300)) + int(getattr(found, "test", 500))
