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
    assert wave.evaluations == tuple(range(20, 53, 4))
    assert wave.steps == 52


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 33, 51, 52, 10_000])
def test_the_seconds_are_read_inside_the_recipe_and_after_a_warm_up(steps: int) -> None:
    points = measured_steps(steps)
    assert 0 < points[0] <= points[-1] <= steps
    assert len(points) >= min(steps, 3) - 1
    if steps >= 52:
        assert points[0] >= BALANCED_STEPS


def test_a_cost_has_student_and_teacher_seconds_of_the_fastest_intervals_after_the_warm_up(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path)
    write(ledger, "student", [50.0, 56.0, 58.0, 61.0], [0.0] * 4)  # 6, 2 and 3 seconds in the intervals
    write(ledger, "kd", [0.5, 3.0, 13.0, 15.2], [70.0, 75.0, 76.0, 79.0])  # 2.5, 10 and 2.2; 5, 1 and 3
    write(ledger, "at", [0.1, 2.0, 3.9, 5.8], [0.0] * 4)  # 1.9: less than the student alone
    write(ledger, "heteroakd", [3.0], [1.0], status="failed")
    plan = measurement_plan(tiny_sweep(compare="seconds"), {})
    assert measured_costs(ledger, plan) == {PAIR: {"kd": 1.6, "at": 1.0}}


def test_the_seconds_of_a_step_count_where_intervals_have_different_steps(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    write(ledger, "student", [0.0, 4.0, 8.0], [0.0] * 3, steps=(1, 2, 6))  # 4 and 1 seconds a step
    write(ledger, "kd", [0.0, 3.0, 15.0], [0.0] * 3, steps=(1, 2, 6))  # 3 and 3
    assert measured_costs(ledger, measurement_plan(tiny_sweep(compare="seconds"), {})) == {PAIR: {"kd": 3.0}}


def test_without_the_student_alone_there_is_no_cost(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    write(ledger, "student", [50.0], [0.0], status="failed")
    write(ledger, "kd", [1.0, 2.1, 9.2, 10.4], [70.0, 70.5, 71.0, 71.5])
    assert measured_costs(ledger, measurement_plan(tiny_sweep(compare="seconds"), {})) == {}


def write(
    ledger: Ledger,
    method: str,
    own: list[float],
    teacher: list[float],
    status: str = "ok",
    steps: tuple[int, ...] = STEPS,
) -> None:
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
            for step, mine, taught in zip(steps, own, teacher, strict=False)
        ],
        method,
    )
