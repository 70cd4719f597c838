"""Ids depend on the content of files of weights, and not on the folder that a sweep is in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.errors import UsageError
from orchestrator.ledger.recorded import recorded_contents
from orchestrator.ledger.run_folder import check_run_folder, claim_run_folder
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import Plan, bracket_trials, make_plan
from orchestrator.planning.weight_contents import weight_contents
from tests.orchestrator.sweep_files import TINY_RECIPE, tiny_sweep

RUN = "weights/run.safetensors"
TRANSFORMERS = {"kind": "transformers", "path": "weights/saved"}


def write_sweep(folder: Path, checkpoint: Any = RUN) -> Path:
    """A folder with a sweep file, a data set and weights, all by relative paths. Nothing reads the weights."""
    (folder / "weights" / "saved").mkdir(parents=True)
    (folder / "pictures").mkdir()
    (folder / "pictures" / "classes.csv").write_text("value,name\n0,sky\n1,road\n")
    for name in ("run.safetensors", "backbone.pth", "saved/config.json", "saved/model.safetensors"):
        (folder / "weights" / name).write_text(f"content of {name}")
    student = {"model": "deeplabv3-test_resnet", "recipe": "short", "pretrained": "weights/backbone.pth"}
    document = {
        "name": "street",
        "data": {"mine": {"kind": "folder", "root": "pictures", "classes": "classes.csv"}},
        "recipes": {"short": dict(TINY_RECIPE)},
        "pairs": [{"teacher": {"model": "t", "checkpoint": checkpoint}, "student": student, "data": "mine"}],
        "methods": ["student", "kd"],
        "search": {"trials": 2, "bracket": 2},
    }
    if checkpoint == RUN:
        document["pairs"][0]["teacher"]["model"] = "segformer-test_vit"  # type: ignore[index]
    (folder / "street.yaml").write_text(yaml.safe_dump(document))
    return folder


def plan_of(folder: Path, ledger: Ledger | None = None) -> Plan:
    config = load_sweep(str(folder / "street.yaml"))
    return make_plan(config, weight_contents(config, recorded_contents(ledger) if ledger else {}))


def ids(plan: Plan) -> list[str]:
    """Ids of teachers and studies, and of the trials of the search."""
    (cohort,) = plan.students
    searches = [wave for wave in cohort.waves if wave.phase == "search"]
    trials = [
        trial.trial_id
        for wave in searches
        for bracket in wave.brackets
        for trial in bracket_trials(plan.config, cohort, wave, bracket, {})
    ]
    return [*(t.teacher_id for t in plan.teachers), *(s.study_id for s in plan.studies), *trials]


@pytest.mark.parametrize("checkpoint", [RUN, TRANSFORMERS])
def test_a_sweep_in_another_folder_has_the_same_ids_and_resumes_its_run(
    tmp_path: Path, checkpoint: Any
) -> None:
    before = write_sweep(tmp_path / "before", checkpoint)
    plan, ledger = plan_of(before), Ledger(tmp_path / "run")
    claim_run_folder(ledger, plan, fresh=False)
    ledger.append("trials", [{"trial_id": "a", "attempt": 1}], "a-1")
    moved = plan_of(Path(shutil.move(before, tmp_path / "after")))
    assert ids(moved) == ids(plan)
    check_run_folder(ledger, moved, fresh=False)


@pytest.mark.parametrize(
    ("checkpoint", "file"),
    [
        (RUN, "run.safetensors"),
        (RUN, "backbone.pth"),
        (TRANSFORMERS, "saved/model.safetensors"),
        (TRANSFORMERS, "saved/config.json"),
    ],
)
def test_other_weights_under_the_same_name_are_another_plan(
    tmp_path: Path, checkpoint: Any, file: str
) -> None:
    folder = write_sweep(tmp_path / "mine", checkpoint)
    plan, ledger = plan_of(folder), Ledger(tmp_path / "run")
    claim_run_folder(ledger, plan, fresh=False)
    ledger.append("trials", [{"trial_id": "a", "attempt": 1}], "a-1")
    (folder / "weights" / file).write_text("trained longer")
    changed = plan_of(folder, ledger)
    kept = {*ids(changed)} & {*ids(plan)}  # the student's backbone is not the teacher's
    assert kept == ({plan.teachers[0].teacher_id} if file == "backbone.pth" else set())
    assert changed.plan_hash != plan.plan_hash
    with pytest.raises(UsageError, match=r"holds another plan, .*\n  pairs\..*: there .*sha256:"):
        check_run_folder(ledger, changed, fresh=False)


def test_a_run_resumes_after_its_checkpoint_is_gone(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "mine")
    plan, ledger = plan_of(folder), Ledger(tmp_path / "run")
    claim_run_folder(ledger, plan, fresh=False)
    shutil.rmtree(folder / "weights")
    assert ids(plan_of(folder, ledger)) == ids(plan)
    assert ids(plan_of(folder)) != ids(plan)


def test_a_sweep_without_files_of_weights_keeps_its_ids() -> None:
    plan = make_plan(tiny_sweep(methods=["student", "kd"]))
    assert (plan.plan_hash, plan.teachers[0].teacher_id) == ("b5995f72092f", "6fbd3b7e0a46")
