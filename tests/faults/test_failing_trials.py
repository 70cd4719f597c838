"""Trials that fail by themselves, and workers that cannot work: the others' results are those of their absence."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests import ROOT
from tests.orchestrator.by_hand import losses_by_hand, losses_of
from tests.orchestrator.sweeps import SMALL, run, trials

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]
TROUBLES = ROOT / "tests" / "orchestrator" / "troubles"


@pytest.mark.long
def test_trials_that_hang_die_raise_or_want_too_much_memory_fail_alone(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Methods of another package, found by its entry points; the others' results are those of their absence."""
    monkeypatch.setenv("PYTHONPATH", f"{TROUBLES}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    document = yaml.safe_load(SMALL.read_text())
    document["methods"] = ["student", "raising", "hanging", "dying", "greedy", "greedy_when_whole"]
    document["search"] = {"trials": 1, "bracket": 1, "wave": 8, "rungs": [], "evaluations": 2, "finalists": 0}
    document["final"] = {"seeds": [1]}
    document["recipes"]["student"] |= {"steps": 24, "accumulate_if_out_of_memory": True}
    # Also on a busy machine no step of the others takes so long.
    document["operation"]["step_timeout_seconds"] = 30
    source = tmp_path / "troubles.yaml"
    source.write_text(yaml.safe_dump(document))
    output = tmp_path / "run"
    sweep = run(source, output, "--json")
    assert sweep.process.returncode == 3, sweep.text()
    rows = trials(output).query("phase == 'search'").set_index("method")
    assert rows.status.to_dict() == {
        "student": "ok", "raising": "failed", "hanging": "failed", "dying": "failed", "greedy": "failed",
        "greedy_when_whole": "ok",
    }  # fmt: skip
    failed = rows[rows.status == "failed"]
    assert (failed.error_step.drop("greedy") == 10).all()
    for method, words in {
        "raising": ["this method is broken"],
        "hanging": ["no progress within 30 s", "troubles.py", "time.sleep"],
        "dying": ["its worker died 2 times at this step"],
        "greedy": ["out of memory (asked for 3.73e+06 GiB)", "lower recipe.batch_size"],
    }.items():
        assert all(word in rows.error[method] for word in words), rows.error[method]
    assert "trained anew with accumulate 2" in rows.remark["greedy_when_whole"]
    assert pd.isna(rows.remark["student"])
    told = json.loads(sweep.text()[sweep.text().index('{\n "exit_code"') :].split("\n}\n")[0] + "\n}")
    assert len(told["failures"]) == 4


@pytest.mark.long
def test_students_for_which_the_device_has_no_room_together_are_trained_in_turn_with_the_same_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of `crowded` run out of memory in a step, a third of `bulky` cannot be built."""
    monkeypatch.setenv("PYTHONPATH", f"{TROUBLES}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    document = yaml.safe_load(SMALL.read_text())
    document["methods"] = ["student", "crowded", "bulky"]
    document["search"] = {
        "trials": 3,
        "bracket": 3,
        "wave": 9,
        "rungs": [0.5],
        "evaluations": 2,
        "finalists": 0,
    }
    document["final"] = {"seeds": [1]}
    document["recipes"]["student"]["steps"] = 32
    source = tmp_path / "large.yaml"
    source.write_text(yaml.safe_dump(document))
    output = tmp_path / "run"
    sweep = run(source, output)
    assert sweep.process.returncode == 0, sweep.text()
    found = trials(output).query("phase == 'search'").fillna({"remark": ""})
    remarks = found.groupby("method").remark.apply(list)
    for remark in remarks["crowded"]:
        assert re.fullmatch(
            "ran out of memory by step [0-9]+ beside [1-7] others; trained (anew|from step [0-9]+) "
            "(by itself|beside at most [1-3])",
            remark,
        )
    assert {method for method, told in remarks.items() if any(told)} == {"crowded"}
    assert losses_of(output, ["search"]) == losses_by_hand(source, output, ["search"])


@pytest.mark.long
def test_a_worker_that_cannot_import_ends_the_sweep_with_the_modules_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken" / "albumentations"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('built for another machine')")
    monkeypatch.setenv("PYTHONPATH", f"{broken.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    sweep = run(SMALL, tmp_path / "run")
    assert sweep.process.returncode == 2, sweep.text()
    assert "cannot import what it needs: built for another machine" in sweep.text()
    assert "Traceback" not in sweep.text()
