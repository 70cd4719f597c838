"""Estimate of steps, worker hours, price and disk space of a plan, from FLOPs and parameter counts. Imports neither torch nor Ray."""

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
from orchestrator.planning.equal_seconds import SECONDS, at_equal_steps, unmeasured, with_step_costs
from orchestrator.planning.method_settings import needs_teacher
from orchestrator.planning.model_costs import cost_of
from orchestrator.planning.plan import (
    KEPT_PHASES,
    PHASES,
    Bracket,
    Cohort,
    Phase,
    Plan,
    Study,
    Wave,
    make_plan,
    teacher_cohort,
)
from orchestrator.planning.planned_models import Model, Teacher
from orchestrator.planning.prices import Price, price_of
from orchestrator.planning.step_costs import (
    BACKWARD,
    flops_lines,
    flops_of,
    loss_flops_of,
    memory_lines,
    memory_of,
)

# FLOP/s that training with small batches reaches in practice: a fraction of the peak. The ledger has measured times.
ASSUMED_FLOPS = {
    ("cpu", "fp32"): 15e9,
    ("cpu", "bf16"): 10e9,
    ("cuda", "fp32"): 10e12,
    ("cuda", "bf16"): 40e12,
}
# Peak of an A100, whose share the assumed speed is.
PEAK_FLOPS = {("cuda", "fp32"): 156e12, ("cuda", "bf16"): 312e12}
TOO_LONG_DAYS, TOO_LONG_HOURS = 14, 24 * 365
"""A training that takes more days, and a plan that takes more worker-hours, gets a warning."""
BYTES = 4  # of a weight
COUNT_ROW_BYTES = 6  # size of a row of `counts`, compressed


@dataclass(frozen=True)
class Work:
    """Work of a wave: training steps of its students, forward passes of the teacher, and FLOPs of both."""

    student_steps: int
    teacher_passes: int
    flops: float


def with_estimated_costs(plan: Plan) -> Plan:
    """The plan as it will be once every cost of a step is measured, with those that are not yet estimated from FLOPs."""
    config = plan.config
    missing = set(unmeasured(config))
    if not missing:
        return plan
    costs: dict[str, dict[str, float]] = {}
    for study in make_plan(at_equal_steps(config)).studies:
        if (study.pair, study.title) in missing:
            costs.setdefault(study.pair, {})[study.title] = _estimated_cost(config, study)
    return make_plan(with_step_costs(config, costs), plan.contents)


def _estimated_cost(config: SweepConfig, study: Study) -> float:
    """FLOPs of one step of a method, with the teacher's forward pass, over those of the student alone; at least 1."""
    recipe = study.recipe
    alone = _cost(config, study.data, recipe, study.student).flops_forward * (1 + BACKWARD)
    more = loss_flops_of(config, recipe, study) / recipe.batch_size
    if needs_teacher(study.method) and _is_countable(study.teacher):
        more += _cost(config, study.data, recipe, study.teacher.model).flops_forward
    return round(1 + more / alone, 3)


def _equal_seconds(found: Plan, measured: SweepConfig) -> list[dict[str, Any]]:
    """Cost of a step and steps of each method at equal seconds, and whether the cost was measured."""
    missing = set(unmeasured(measured))
    return [
        {
            "pair": study.pair,
            "method": study.title,
            "step_cost": study.cost,
            "steps": study.recipe.steps,
            "is_measured": (study.pair, study.title) not in missing,
        }
        for study in found.studies
        if study.compare == SECONDS and study.repeat == 0
    ]


def estimate(plan: Plan) -> dict[str, Any]:
    """Trials, steps, worker hours, price and bytes on disk of a plan, as values for JSON.

    A cost of a step that is not measured yet is estimated.
    """
    config, plan_hash = plan.config, plan.plan_hash
    plan = with_estimated_costs(plan)
    teachers = [teacher_cohort(plan, teacher) for teacher in plan.teachers if teacher.recipe is not None]
    cohorts = [*teachers, *plan.students]
    phases = {phase: _phase(config, cohorts, phase) for phase in PHASES}
    worker_hours = math.fsum(phase["worker_hours"] for phase in phases.values())
    price = price_of(config.budget)
    memory, unknown = memory_of(plan) if config.compute.device == "cuda" else ([], [])
    return {
        "name": config.name,
        "plan_hash": plan_hash,
        "protocol": config.protocol,
        "compare": list(config.compare),
        "equal_seconds": _equal_seconds(plan, config),
        "pairs": sorted({study.pair for study in plan.studies}),
        "methods": [method.title for method in config.methods],
        "studies": len(plan.studies),
        "trials_per_study": config.search.trials,
        "seeds": list(config.final.seeds),
        "sampler": config.search.sampler,
        "compute": config.compute.model_dump(),
        "phases": phases,
        "uncounted_teachers": sorted(
            teacher.model.name for teacher in plan.teachers if not _is_countable(teacher)
        ),
        "worker_hours": round(worker_hours, 4),
        "price": None if price is None else asdict(price),
        "cost": None if price is None else round(price.cost(worker_hours), 2),
        "budget": config.budget.model_dump(exclude={"price"}),
        "assumed_flops_per_second": sorted({_speed(config, cohort.recipe) for cohort in cohorts}),
        "disk_bytes": _disk(config, cohorts),
        "step_flops": flops_of(plan, lambda recipe: _speed(config, recipe)),
        "memory": memory,
        "memory_unknown": unknown,
        "warnings": _warnings(config, plan, worker_hours),
    }


def render_estimate(found: dict[str, Any]) -> str:
    """Text of an estimate, for the terminal."""
    lines = [
        f"{found['name']} (plan {found['plan_hash']}, protocol {found['protocol']})",
        f"  pairs    {', '.join(found['pairs'])}",
        f"  methods  {', '.join(found['methods'])}",
        f"  {found['studies']} studies × {found['trials_per_study']} trials ({found['sampler']}), seeds {found['seeds']}",
        "",
        f"  {'phase':<10}{'trials':>8}{'student steps':>16}{'teacher passes':>16}{'worker-hours':>14}",
    ]
    for name, phase in found["phases"].items():
        if name == "selection" and not phase["trials"]:
            continue
        hours = f"{phase['worker_hours']:.3f}"
        lines.append(
            f"  {name:<10}{phase['trials']:>8}{phase['student_steps']:>16,}{phase['teacher_passes']:>16,}{hours:>14}"
        )
    lines += _equal_seconds_lines(found["equal_seconds"])
    speeds = " and ".join(f"{speed / 1e9:g}" for speed in found["assumed_flops_per_second"])
    lines += [
        "",
        f"  about {found['worker_hours']:.2f} worker-hours, assuming {speeds} GFLOP/s per worker"
        f"{_peak_text(found['compute']['device'], found['assumed_flops_per_second'])}, without start-up",
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
            f"  budget   {limits}: the sweep stops at the first limit that is reached, and keeps its results"
        )
    if found["uncounted_teachers"]:
        lines.append(
            f"  not in it: passes of {', '.join(found['uncounted_teachers'])}, whose cost is not known yet"
        )
    lines += flops_lines(found["step_flops"])
    lines += memory_lines(found["memory"], found["memory_unknown"])
    lines += [f"  WARNING: {warning}" for warning in found["warnings"]]
    return "\n".join(lines)


def _equal_seconds_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Steps of each method at equal seconds; nothing if the methods have equal steps only."""
    if not rows:
        return []
    lines = [
        "",
        "  steps of each training at equal seconds; in brackets the cost of a step, relative to the student alone",
    ]
    for pair in dict.fromkeys(row["pair"] for row in rows):
        shown = [
            f"{row['method']} {row['steps']:,} ({'' if row['is_measured'] else 'about '}{row['step_cost']:g})"
            for row in rows
            if row["pair"] == pair
        ]
        lines.append(f"  {pair}: {', '.join(shown)}")
    if not all(row["is_measured"] for row in rows):
        lines.append(
            '  costs with "about" are estimated from FLOPs; the sweep measures them before it trains students, and '
            "records them"
        )
    return lines


def _warnings(config: SweepConfig, plan: Plan, worker_hours: float) -> list[str]:
    """What is unlikely ever to end: single trainings, and the whole plan."""
    found = {}
    for cohort in plan.students:
        recipe = cohort.recipe
        for study in (bracket.study for wave in cohort.waves for bracket in wave.brackets):
            own = _cost(config, cohort.data, recipe, study.student).flops_forward * (1 + BACKWARD)
            loss = loss_flops_of(config, recipe, study)
            step = recipe.batch_size * own + loss
            days = recipe.steps * step / _speed(config, recipe) / 86400
            if days > TOO_LONG_DAYS:
                found[study.pair, study.title] = (
                    f"one training of {study.title} on {study.pair} takes about {days:,.0f} days of a worker; its loss "
                    f"is {loss / step:.0%} of {step / 1e12:,.0f} TFLOP a step"
                )
    lines = list(found.values())
    if worker_hours > TOO_LONG_HOURS:
        lines.append(
            f"the plan takes about {worker_hours / TOO_LONG_HOURS:.1f} years of one worker; use more worker groups, "
            "leave out pairs or methods, or set a budget"
        )
    return lines


def _peak_text(device: str, speeds: Sequence[float]) -> str:
    """Which share of a known GPU's peak the assumed speeds are."""
    shares = [
        f"{speed / PEAK_FLOPS[key]:.0%} of an A100's peak in {key[1]}"
        for key, speed in ASSUMED_FLOPS.items()
        if key[0] == device and key in PEAK_FLOPS and speed in speeds
    ]
    return f" ({' and '.join(shares)})" if shares else ""


def _phase(config: SweepConfig, cohorts: Sequence[Cohort], phase: Phase) -> dict[str, Any]:
    waves = [(cohort, wave) for cohort in cohorts for wave in cohort.waves if wave.phase == phase]
    works = [_work(config, cohort, wave) for cohort, wave in waves]
    seconds = [w.flops / _speed(config, cohort.recipe) for (cohort, _), w in zip(waves, works, strict=True)]
    return {
        "trials": sum(_trials(config, wave, bracket) for _, wave in waves for bracket in wave.brackets),
        "waves": len(waves),
        "student_steps": sum(work.student_steps for work in works),
        "teacher_passes": sum(work.teacher_passes for work in works),
        "worker_hours": round(math.fsum(seconds) / 3600, 4),
    }


def _work(config: SweepConfig, cohort: Cohort, wave: Wave) -> Work:
    steps, passes, flops = 0, 0, 0.0
    recipe = cohort.recipe
    for bracket in wave.brackets:
        student_steps = sum(
            length * running for length, running in _segments(wave, _trials(config, wave, bracket))
        )
        steps += student_steps
        cost = _cost(config, cohort.data, recipe, bracket.study.student)
        loss = 0.0 if cohort.teacher is None else loss_flops_of(config, recipe, bracket.study)
        flops += student_steps * (recipe.batch_size * cost.flops_forward * (1 + BACKWARD) + loss)
    if cohort.teacher is not None and _needs_teacher(wave):
        passes = wave.steps
        if _is_countable(cohort.teacher):
            teacher = _cost(config, cohort.data, recipe, cohort.teacher.model)
            flops += passes * recipe.batch_size * teacher.flops_forward
    return Work(steps, passes, flops)


def _trials(config: SweepConfig, wave: Wave, bracket: Bracket) -> int:
    """Trials of a bracket; of the selection those that the rungs can leave."""
    return config.search.trained_finalists if wave.phase == "selection" else bracket.size


def _is_countable(teacher: Teacher) -> bool:
    """Whether the FLOPs of a teacher are known from its name. A checkpoint with its own network may have any name."""
    if not brings_network(teacher.checkpoint):
        return True
    try:
        check_model_name(teacher.model.name)
    except UsageError:
        return False
    return True


def _needs_teacher(wave: Wave) -> bool:
    return any(needs_teacher(bracket.study.method) for bracket in wave.brackets)


def _segments(wave: Wave, size: int) -> Iterator[tuple[int, int]]:
    """Steps between two rungs, and the number of trials of a bracket that train in them; at most, if rungs do not halve."""
    start, running = 0, size
    for stop in (*wave.halvings, wave.steps):
        yield stop - start, running
        start, running = stop, math.ceil(running / 2)


def _cost(config: SweepConfig, data: str, recipe: Recipe, model: Model) -> ModelCost:
    return cost_of(model, config.data[data].class_count, *recipe.augmentation.crop)


def _speed(config: SweepConfig, recipe: Recipe) -> float:
    compute = config.compute
    return ASSUMED_FLOPS[(compute.device, recipe.precision)] * (
        compute.cpus_per_worker if compute.device == "cpu" else 1
    )


def _disk(config: SweepConfig, cohorts: Sequence[Cohort]) -> int:
    """Upper bound in bytes: weights of finished trials, the largest checkpoints at one time, and the table `counts`."""
    kept = checkpoints = counts = 0
    for cohort in cohorts:
        largest = 0
        for wave in cohort.waves:
            wave_bytes = 0
            for bracket in wave.brackets:
                cost = _cost(config, cohort.data, cohort.recipe, bracket.study.student)
                states = 2 if cohort.recipe.optimizer == "sgd" else 3
                wave_bytes += bracket.size * cost.params * BYTES * states
                if wave.phase in KEPT_PHASES:
                    kept += bracket.size * cost.params * BYTES
                    rows = config.data[cohort.data].scored_images * config.data[cohort.data].class_count
                    counts += bracket.size * rows * COUNT_ROW_BYTES
            largest = max(largest, wave_bytes)
        checkpoints += largest * (config.operation.checkpoints_kept + 1)
    return kept + checkpoints + counts
