"""What a step of each method costs, relative to the student alone: a sweep cut to its first steps, for `compare: seconds`.

All methods of a pair train in one wave, step by step beside the student alone, on the workers and the device of the sweep. Of many short
intervals the fastest counts, of each method, of the student alone and of the teacher: other work on the machine only adds seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from distill import relative_weights
from orchestrator.controller.phase_runner import PhaseView, run_phase
from orchestrator.controller.run_state import Run
from orchestrator.controller.worker_groups import WorkerGroupPool
from orchestrator.ledger.run_folder import COSTS
from orchestrator.ledger.tables import Ledger
from orchestrator.ledger.weights import teacher_weights
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.equal_seconds import at_equal_steps, unmeasured, with_step_costs
from orchestrator.planning.plan import Plan, make_plan

WARM_UP_STEPS = relative_weights.STEPS
"""Steps before the measurement. A relative weight is measured in them, which costs further backward passes."""
INTERVALS, INTERVAL_STEPS = 8, 4


def measure_costs(
    run: Run, *, groups: WorkerGroupPool, watch: Callable[[PhaseView], None], say: Callable[[str], None]
) -> None:
    """Measure the costs that the run's plan lacks, and put the studies that wait for them into the plan.

    A method whose training fails gets no cost. It is noted in `run.given_up`, and has no study at equal seconds.

    Args:
        run: its teachers have their weights. Its plan is unchanged if the run is stopped during the measurement.
        groups: the worker groups that train.
        watch: see `run_phase`.
        say: prints a line.
    """
    config, missing = run.config, unmeasured(run.config)
    plan = measurement_plan(config, run.plan.contents)
    ledger = run.ledger.below(f"{COSTS}/{plan.plan_hash}")
    for path in (
        "tables",
        "checkpoints",
    ):  # of a measurement that was interrupted: all methods are measured in one go
        ledger.delete(path)
    for teacher in plan.teachers:
        ledger.write_bytes(teacher_weights(teacher), run.ledger.read_bytes(teacher_weights(teacher)))
    say(
        f"measuring what a step of {len(missing)} {'method' if len(missing) == 1 else 'methods'} costs, beside the student alone"
    )
    measuring = Run(
        ledger,
        plan,
        provenance_id=run.provenance_id,
        started=run.started,
        stopped=run.stopped,
        ray_restarts=run.ray_restarts,
    )
    run_phase(measuring, "costs", plan.students, groups=groups, watch=watch, later=len(run.plan.students))
    ledger.delete("teachers")
    run.stop_reason = run.stop_reason or measuring.stop_reason
    if run.stopped.is_set():
        return
    measured = with_step_costs(config, measured_costs(ledger, plan))
    run.plan = make_plan(measured, run.plan.contents)
    errors = {(row["pair"], row["method"]): row["error"] for row in ledger.read("trials").to_pylist()}
    for pair, method in unmeasured(measured):
        why = errors.get((pair, method)) or "the student alone has no seconds to compare with"
        run.given_up.append(f"{method} on {pair}: the cost of its steps could not be measured: {why}")


def measurement_plan(config: SweepConfig, contents: Mapping[str, str]) -> Plan:
    """A plan of the defaults of the student alone and of each method that lacks a cost, for as many steps as are measured.

    Args:
        config: of the sweep.
        contents: see `make_plan`.
    """
    missing = unmeasured(config)
    alone = next(method for method in config.methods if method.name == "student")
    titles = {method for _, method in missing}
    methods = tuple(
        method.model_copy(update={"space": {}})
        for method in config.methods
        if method is alone or method.title in titles
    )
    pairs = tuple(pair for pair in config.pairs if pair.label in {pair for pair, _ in missing})
    search = config.search.model_copy(
        update={"trials": 1, "bracket": 1, "wave": len(pairs) * len(methods), "rungs": (), "evaluations": 1,
                "training_seeds": None, "finalists": 0, "repeats": 1}
    )  # fmt: skip
    updated = at_equal_steps(config).model_copy(
        update={
            "pairs": pairs,
            "methods": methods,
            "search": search,
            "operation": config.operation.model_copy(update={"trackers": ()}),
        }
    )
    plan = make_plan(updated, contents)
    cohorts = []
    for cohort in plan.students:
        points = measured_steps(cohort.recipe.steps)
        waves = tuple(
            replace(wave, steps=points[-1], evaluations=points)
            for wave in cohort.waves
            if wave.phase == "search"
        )
        cohorts.append(replace(cohort, cohort_id=f"{COSTS}-{cohort.cohort_id}", waves=waves))
    return replace(plan, students=tuple(cohorts))


def measured_steps(steps: int) -> tuple[int, ...]:
    """Steps at which the seconds are read: after the warm-up, and after each interval. A short recipe has shorter ones."""
    last = min(steps, WARM_UP_STEPS + INTERVALS * INTERVAL_STEPS)
    first = min(WARM_UP_STEPS, last // 2)
    return tuple(sorted({first + (last - first) * i // INTERVALS for i in range(INTERVALS + 1)} - {0}))


def measured_costs(ledger: Ledger, plan: Plan) -> dict[str, dict[str, float]]:
    """Cost of a step by pair and method, from the tables of a measurement. What failed is left out.

    The seconds of a method are those of the student with the method's loss, and of the teacher's whole forward pass, each in its
    fastest interval. The seconds of
    the data, of evaluations, and of what a method prepares once before its first step do not count.

    Args:
        ledger: of the measurement.
        plan: by `measurement_plan`.
    """
    columns = ["trial_id", "attempt", "pair", "method", "status"]
    trials = [row for row in ledger.read("trials", columns).to_pylist() if row["status"] == "ok"]
    curves = ledger.read("curves", ["trial_id", "step", "student_seconds", "teacher_seconds"]).to_pylist()
    reports: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(curves, key=lambda row: row["step"]):
        reports.setdefault(row["trial_id"], []).append(row)
    seconds = {
        (row["pair"], row["method"]): sum(
            _fastest_step(reports[row["trial_id"]], part) for part in ("student_seconds", "teacher_seconds")
        )
        for row in trials
    }
    alone = {study.pair: study.title for study in plan.studies if study.method == "student"}
    costs: dict[str, dict[str, float]] = {}
    for (pair, method), mine in seconds.items():
        student = seconds.get((pair, alone[pair]))
        if student is not None and method != alone[pair]:
            # A method does all that the student alone does.
            costs.setdefault(pair, {})[method] = max(1.0, round(mine / student, 3))
    return costs


def _fastest_step(reports: Sequence[Mapping[str, Any]], part: str) -> float:
    """Seconds of a step in the fastest interval, from the seconds since the start; of a training of one step, of all of it."""
    spans = [
        (later[part] - earlier[part]) / (later["step"] - earlier["step"])
        for earlier, later in pairwise(reports)
    ]
    return float(min(spans, default=reports[0][part]))
