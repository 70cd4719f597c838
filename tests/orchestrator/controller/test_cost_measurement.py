"""The measurement of what a step costs: its plan, and the costs that follow from its tables. Without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill.relative_weights import STEPS as BALANCED_STEPS
from orchestrator.controller.cost_measurement import measured_costs, measured_steps, measurement_plan
from orchestrator.ledger.tables import Ledger
from tests.orchestrator.sweep_files import tiny_sweep

PAIR = "segformer-test_vit_to_deeplabv3-test_resnet"
STEPS = (20, 26, 32, 38)


def test_all_methods_without_a_cost_train_in_one_wave_beside_the_student_alone() -> None:
    config = tiny_sweep(
        compare=["steps", "seconds"], step_costs={PAIR: {"kd": 1.5}}, methods=["kd", "heteroakd", "at", "student"],
        recipes__student__steps=200, search__wave=4, search__finalists=2, search__repeats=2,
    )  # fmt: skip
    plan = measurement_plan(config, {})
    (wave,) = [wave for cohort in plan.students for wave in cohort.waves]
    assert [(b.study.title, b.size, b.study.compare) for b in wave.brackets] == [
        ("heteroakd", 1, "steps"), ("at", 1, "steps"), ("student", 1, "steps"),
    ]  # fmt: skip
    assert wave.rungs == ()
    assert wave.evaluations == (20, 26, 32, 38, 44, 50)
    assert wave.steps == 50


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 33, 49, 50, 10_000])
def test_the_seconds_are_read_inside_the_recipe_and_after_a_warm_up(steps: int) -> None:
    points = measured_steps(steps)
    assert 0 < points[0] <= points[-1] <= steps
    assert len(points) >= min(steps, 3) - 1
    if steps >= 50:
        assert points[0] >= BALANCED_STEPS


def test_a_cost_has_student_and_teacher_seconds_of_the_median_interval_after_the_warm_up(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path)
    write(ledger, "student", [50.0, 51.0, 52.0, 53.0], [0.0] * 4)
    write(ledger, "kd", [1.0, 2.1, 9.2, 10.4], [70.0, 70.5, 71.0, 71.5])  # 1.6, 7.6, 1.7 in the intervals
    write(ledger, "heteroakd", [3.0], [1.0], status="failed")
    plan = measurement_plan(tiny_sweep(compare="seconds"), {})
    assert measured_costs(ledger, plan) == {PAIR: {"kd": 1.7}}


def test_without_the_student_alone_there_is_no_cost(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    write(ledger, "student", [50.0], [0.0], status="failed")
    write(ledger, "kd", [1.0, 2.1, 9.2, 10.4], [70.0, 70.5, 71.0, 71.5])
    assert measured_costs(ledger, measurement_plan(tiny_sweep(compare="seconds"), {})) == {}


def write(ledger: Ledger, method: str, own: list[float], teacher: list[float], status: str = "ok") -> None:
    """The rows of a training whose seconds since its start are given for each of its reports."""
    trial: dict[str, Any] = {
        "trial_id": method,
        "attempt": 1,
        "pair": PAIR,
        "method": method,
        "status": status,
    }
    ledger.append("trials", [trial], method)
    ledger.append(
        "curves",
        [
            {"trial_id": method, "step": step, "student_seconds": mine, "teacher_seconds": taught}
            for step, mine, taught in zip(STEPS, own, teacher, strict=False)
        ],
        method,
    )
