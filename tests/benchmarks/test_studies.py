"""The studies beside the presets: their files are sound, and what is read out of their runs is right."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from distill.errors import UsageError
from distill.methods import build_method
from distill.methods.readings import DEFAULT_READING, READINGS
from distill.models import ModelInfo
from orchestrator.planning.cost_estimate import estimate
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import make_plan
from tests import ROOT

BENCHMARKS = ROOT / "benchmarks"
STUDIES = sorted((BENCHMARKS / "studies").glob("*.yaml"))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def studies() -> ModuleType:
    """The script that reads the studies' runs."""
    return script("studies")


def final_runs(pair: str, method: str, miou: list[float], *, sweep: int = 1) -> pd.DataFrame:
    """Final runs of 100 steps, one per seed; those of another `sweep` have other ids."""
    return pd.DataFrame(
        {
            "pair": pair, "method": method, "phase": "final", "status": "ok", "seed": range(len(miou)),
            "test_miou": miou, "steps_planned": 100, "teacher_id": "t", "study_id": f"{pair}.{method}",
            "trial_id": [f"{pair}.{method}.{seed}.{sweep}" for seed in range(len(miou))],
        }
    )  # fmt: skip


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_study_can_be_planned_and_its_cost_is_known(file: Path) -> None:
    found = estimate(make_plan(load_sweep(str(file))))
    assert found["worker_hours"] > 0
    assert found["methods"][0] == "student"


def test_studies_of_the_method_have_the_teachers_of_the_preset_scenes() -> None:
    wanted = {teacher.teacher_id for teacher in make_plan(load_sweep("scenes")).teachers}
    for file in STUDIES:
        if file.stem not in ("knob", "regime", "selection"):  # they have other pictures
            assert wanted == {teacher.teacher_id for teacher in make_plan(load_sweep(str(file))).teachers}, (
                file
            )


def test_the_knob_changes_the_share_of_far_context_and_nothing_else() -> None:
    middle = load_sweep("scenes")
    knob = load_sweep(str(BENCHMARKS / "studies/knob.yaml"))
    assert [config.model_dump()["context"] for config in knob.data.values()] == [0.0, 1.0]
    assert {config.model_copy(update={"context": 0.5}) for config in knob.data.values()} == {
        *middle.data.values()
    }
    assert (knob.search, knob.final) == (middle.search, middle.final)
    assert all(method in middle.methods for method in knob.methods)


def test_the_study_of_equal_seconds_has_methods_of_the_preset_scenes_and_changes_the_protocol_alone() -> None:
    steps, seconds = load_sweep("scenes"), load_sweep(str(BENCHMARKS / "studies/seconds.yaml"))
    assert all(method in steps.methods for method in seconds.methods)
    changed = {"methods": seconds.methods, "compare": seconds.compare, "name": seconds.name}
    assert steps.model_copy(update=changed) == seconds


def test_an_ablation_turns_one_switch_and_keeps_the_search_of_the_method_in_the_preset_scenes() -> None:
    whole = load_sweep("scenes")
    base = next(method for method in whole.methods if method.title == "heteroakd")
    ablations = load_sweep(str(BENCHMARKS / "studies/ablations.yaml"))
    student, *variants = ablations.methods
    assert student in whole.methods
    assert (ablations.search, ablations.final) == (whole.search, whole.final)
    assert {m.title for m in variants} == {
        "no_kmm", "no_kem", "projection_only", "proj_alone", "lambda2_0", "axis_class", "relu", "proj_stopped",
        "projector_pretrained", "projector_pretrained_on_teachers", "tap_stride8", "tap_stage4",
    }  # fmt: skip
    assert all(m.name == "heteroakd" and m.space == base.space and m.config != base.config for m in variants)


def test_the_rows_without_the_heterogeneous_term_have_the_terms_that_they_are_named_after() -> None:
    variants = {m.title: m for m in load_sweep(str(BENCHMARKS / "studies/ablations.yaml")).methods}
    shapes = ModelInfo("any", "cnn", 2, (16, 16, 16, 16), (4, 8, 16, 32), 16, 4, 4)
    terms = {}
    for title in ("proj_alone", "lambda2_0"):
        method = build_method(
            "heteroakd", student=shapes, teacher=shapes, num_classes=2, **variants[title].config
        )
        terms[title] = {name for name, weight in method.weights.items() if weight > 0}
    assert terms == {"proj_alone": {"kd", "proj"}, "lambda2_0": {"kd"}}


def test_the_readings_are_searched_alike_and_the_default_one_is_the_preset_scenes() -> None:
    base = next(method for method in load_sweep("scenes").methods if method.title == "heteroakd")
    rows = {m.title: m for m in load_sweep(str(BENCHMARKS / "studies/readings.yaml")).methods}
    assert set(rows) == {"student", *READINGS} - {"paper"}
    assert (rows[DEFAULT_READING].config, rows[DEFAULT_READING].space) == (base.config, base.space)
    for name in set(READINGS) - {DEFAULT_READING, "paper"}:
        assert rows[name].config == {**base.config, "preset": name}
        added = set(rows[name].space or {}) - set(base.space or {})
        assert added == ({"balanced.l2_weight"} if name == "summary" else set())


def test_gains_along_the_knob_stand_by_setting_beside_the_teacher_and_the_student(
    studies: ModuleType,
) -> None:
    teacher = pd.DataFrame(
        {"pair": ["p"] * 2, "phase": ["teacher"] * 2, "study_id": ["t", "other"], "test_miou": [0.9, 0.8], "trial_id": ["t", "other"]}
    )  # fmt: skip
    ends = pd.concat(
        [final_runs("p.high", "student", [0.5, np.nan]), final_runs("p.high", "kd", [0.4, np.nan])]
    ).assign(teacher_id="other")
    middle = pd.concat(
        [final_runs("p", "student", [0.5, 0.6]), final_runs("p", "kd", [0.6, 0.7]), final_runs("p", "cwd", [0.6, 0.7])]
    )  # fmt: skip
    configs = [
        {"pairs": [{"name": "p.high", "data": "far"}, {"name": "p.unfinished", "data": "far"}], "data": {"far": {"context": 1}}},
        {"pairs": [{"name": "p", "data": "scenes"}], "data": {"scenes": {"context": 0.5}}},
    ]  # fmt: skip
    assert studies.knob_table(configs, studies.together([teacher, ends, middle])) == [
        "| pair | method | context 0.5 | context 1 |",
        "| --- | --- | --- | --- |",
        "| p | teacher | 90.0 | 80.0 |",
        "| p | student | 55.0 [−8.5, 118.5] | 50.0 [–, –] |",
        "| p | kd | +10.0 [+10.0, +10.0] | −10.0 [–, –] |",
    ]


def test_a_curve_has_a_column_for_each_length_and_leaves_one_empty_where_a_pair_has_no_such_length(
    studies: ModuleType,
) -> None:
    lengths = [
        final_runs(pair, method, [score])
        for pair, method, score in [
            ("p.100", "student", 0.5), ("p.1000", "student", 0.6), ("p.1000", "kd", 0.7), ("q.200", "student", 0.4),
        ]
    ]  # fmt: skip
    assert studies.curve_table(pd.concat(lengths)) == [
        "| pair | method | 100 steps | 200 steps | 1000 steps |",
        "| --- | --- | --- | --- | --- |",
        "| p | student | 50.0 [–, –] |  | 60.0 [–, –] |",
        "| q | student |  | 40.0 [–, –] |  |",
    ]
    with pytest.raises(UsageError, match=r"pair 'p' must be named PAIR\.STEPS"):
        studies.curve_table(final_runs("p", "student", [0.5]))


def test_what_two_runs_have_trained_alike_is_read_once_and_what_differs_is_refused(
    studies: ModuleType,
) -> None:
    student = final_runs("p", "student", [0.5, 0.6])
    both = studies.together([student, pd.concat([student, final_runs("p", "no_kmm", [0.51, 0.61])])])
    *_, row = studies.differences_table(both, ["no_kmm:student"])
    assert row.startswith("| no_kmm over student | +1.0 ")
    with pytest.raises(UsageError, match="student on p differ"):
        studies.together([student, final_runs("p", "student", [0.5, 0.6], sweep=2)])


def test_published_scores_of_a_pair_are_those_of_its_student_under_its_teacher() -> None:
    published = script("published")
    pairs = {pair.label: pair for pair in load_sweep("cityscapes").pairs}
    alone, methods = published.rows("cityscapes", pairs["deeplabv3_resnet101_to_deeplabv3_resnet18"])
    assert alone == "74.21"
    assert "CIRKD 76.38" in methods
    # The student alone is the same whatever its teacher; nobody published this teacher's methods.
    assert published.rows("cityscapes", pairs["mit_b4_to_deeplabv3_resnet18"]) == ("74.21", "–")


def test_differences_are_paired_by_seed_and_averaged_over_pairs(studies: ModuleType) -> None:
    trials = pd.concat(
        [
            final_runs("a", "kd", [0.50, 0.60]),
            final_runs("a", "student", [0.49, 0.59]),
            final_runs("b", "kd", [0.40, 0.42]),
            final_runs("b", "student", [0.37, 0.39]),
        ]
    )
    *_, row = studies.differences_table(trials, ["kd:student"])
    assert row == "| kd over student | +1.0 [+1.0, +1.0] | +3.0 [+3.0, +3.0] | +2.0 [+2.0, +2.0] |"
    with pytest.raises(UsageError, match="no final run of 'cwd'"):
        studies.differences_table(trials, ["cwd:kd"])


def test_a_grid_of_settings_has_the_mean_gain_of_each(studies: ModuleType) -> None:
    trials = pd.concat(
        final_runs(pair, method, [start + gain, start + gain + 0.1])
        for pair, start in (("p", 0.5), ("q", 0.3))
        for method, gain in (("student", 0.0), ("a_1.b_0.5", 0.1), ("a_1.b_2", 0.2), ("a_10.b_2", -0.1))
    )
    assert studies.grid_table(trials) == [
        "| a | b 0.5 | b 2 |",
        "| --- | --- | --- |",
        "| 1 | +10.0 [+10.0, +10.0] | +20.0 [+20.0, +20.0] |",
        "| 10 |  | −10.0 [−10.0, −10.0] |",
    ]
    with pytest.raises(UsageError, match="no methods labelled"):
        studies.grid_table(final_runs("p", "student", [0.5, 0.6]))
