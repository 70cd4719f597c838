"""`--calibrate`: how hard each term pulls beside the task's loss, before anything is searched."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from distill.catalogue.reader import load_catalogue
from distill.errors import UsageError
from distill.methods import build_method
from distill.models import build_model
from distill.relative_weights import STEPS, split_balanced
from orchestrator.console.exit_codes import USAGE
from orchestrator.controller.calibration import calibration_plan
from orchestrator.ledger.run_folder import check_run_folder
from orchestrator.ledger.tables import Ledger
from orchestrator.ledger.weights import teacher_weights
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import bracket_trials, make_plan
from orchestrator.sweep import SweepOptions, command
from tests.orchestrator.sweeps import SMALL, run


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_calibration_tells_every_terms_pull_and_leaves_the_teacher_for_the_sweep(tmp_path: Path) -> None:
    methods = 'methods=["student", "kd", {"name": "heteroakd", "config": {"hakd_weight": 3.0}}]'
    sweep = run(SMALL, tmp_path / "run", "--calibrate", "--set", methods)
    assert sweep.process.returncode == 0, sweep.text()
    found = pd.read_csv(tmp_path / "run" / "calibration" / "calibration.csv")
    assert list(zip(found.method, found.term, strict=True)) == [
        ("heteroakd", "hakd"), ("heteroakd", "kd"), ("heteroakd", "proj"), ("kd", "kd"),
    ]  # fmt: skip
    assert (found.ratio > 0).all()
    assert (found.ratio * found.even_weight).tolist() == pytest.approx([1.0] * 4)
    assert "even weight" in sweep.text()
    steps = Ledger(tmp_path / "run" / "calibration").read("trials").to_pandas().set_index("phase").steps_done
    assert (steps["search"] == STEPS).all()
    plan = make_plan(load_sweep(str(SMALL), [methods]))
    ledger = Ledger(tmp_path / "run")
    check_run_folder(ledger, plan, fresh=False)  # the sweep itself may still go there
    assert ledger.exists(teacher_weights(plan.teachers[0]))


@pytest.mark.parametrize(
    "method", [*sorted(load_catalogue().methods.keys() - {"student"}), "kd+cwd", "skd+heteroakd"]
)
def test_a_calibration_balances_exactly_the_terms_that_a_method_has_by_default(method: str) -> None:
    info = build_model("deeplabv3-test_resnet", 4, head_channels=8).info
    built = build_method(method, student=info, teacher=info, num_classes=4)
    plan = make_plan(load_sweep(str(SMALL), [f'methods=["student", "{method}"]']))
    (study,) = calibration_plan(plan.config, {}, "somewhere").studies
    _, balanced = split_balanced(study.method_config)
    assert balanced == {term for term, weight in built.weights.items() if weight > 0}


def test_a_space_relative_to_the_task_reaches_the_trials() -> None:
    space = 'methods=["student", {"name": "kd", "space": {"balanced.kd_weight": {"log_uniform": [0.1, 10]}}}]'
    plan = make_plan(load_sweep(str(SMALL), [space]))
    cohort = plan.students[0]
    wave, bracket = next(
        (wave, bracket) for wave in cohort.waves for bracket in wave.brackets if bracket.study.method == "kd"
    )
    trials = bracket_trials(plan.config, cohort, wave, bracket, {})
    assert trials[0].method_config == {}  # the published default comes first
    assert all(0.1 <= trial.method_config["balanced.kd_weight"] <= 10 for trial in trials[1:])


def test_a_weight_that_is_fixed_is_not_searched_relative_to_the_task_either() -> None:
    space = (
        'methods=["student", {"name": "kd", "config": {"kd_weight": 2.0},'
        ' "space": {"balanced.kd_weight": {"log_uniform": [0.1, 10]}}}]'
    )
    plan = make_plan(load_sweep(str(SMALL), [space]))
    assert not plan.studies[1].space.parameters


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ('methods=["student", {"name": "kd", "config": {"balanced.temperature": 2}}]', "must be a weight"),
        ('methods=["student", {"name": "kd", "config": {"balanced.kd_weihgt": 2}}]', "kd_weight"),
        ('methods=["student", {"name": "kd", "config": {"balanced.kd_weight": -1}}]', "must be at least 0"),
        (
            'methods=["student", {"name": "kd", "config": {"balanced.kd_weight": 1, "kd_weight": 1}}]',
            "one of them",
        ),
    ],
)
def test_a_wrong_relative_weight_is_refused_before_anything_runs(setting: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_sweep(str(SMALL), [setting])
    assert told in str(caught.value)


def test_a_sweep_without_a_weight_has_nothing_to_calibrate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = SweepOptions(
        source=str(SMALL), set=["methods=[student]"], output=str(tmp_path), calibrate=True, dry_run=True
    )
    assert command(options) == USAGE
    assert "no method has a weight to calibrate" in capsys.readouterr().err
