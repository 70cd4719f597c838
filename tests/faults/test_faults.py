"""Processes killed at random moments: the same command ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import re
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from orchestrator.console.exit_codes import RAY_LOST
from tests import ROOT
from tests.faults.harness import (
    END_SECONDS,
    PATIENT,
    TITLES,
    Toll,
    assert_nothing_lost,
    disturbed_run,
    end_without_ray,
    kill,
    manifests,
    processes,
)
from tests.orchestrator import ray_nodes
from tests.orchestrator.by_hand import losses_by_hand, losses_of
from tests.orchestrator.sweeps import SMALL, Sweep, counted, descendants, run, trials

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]
TROUBLES = ROOT / "tests" / "orchestrator" / "troubles"


def test_a_run_that_loses_its_gcs_its_coordinator_a_worker_and_a_checkpoint_ends_as_the_one_nobody_disturbed(
    undisturbed: Path, tmp_path: Path
) -> None:
    """One harm of each kind, in as few sweeps as they need. All kinds, at random moments: `make test-long`."""
    toll, choose, output = Toll(), random.Random(1), tmp_path / "run"
    sweep = Sweep(SMALL, output, *PATIENT)
    sweep.wait_until(lambda: bool(processes(sweep, *TITLES["worker"])), END_SECONDS)
    family, struck_at = descendants(sweep.process.pid), time.monotonic()
    assert kill(sweep, "gcs", choose, toll)
    assert sweep.process.wait(120) == RAY_LOST, sweep.text()
    end_without_ray(sweep, family, struck_at, toll)
    assert "Ray lost its control service (GCS)" in sweep.text()

    sweep = Sweep(SMALL, output, *PATIENT)
    sweep.wait_until(lambda: bool(processes(sweep, *TITLES["worker"])), END_SECONDS)
    assert kill(sweep, "coordinator", choose, toll)
    said = "Ray lost the coordinator of this sweep (its process died); another one is started"
    sweep.wait_until(lambda: said in sweep.text(), END_SECONDS)
    for kind in ("worker", "damage"):
        sweep.wait_until(lambda: bool(manifests(sweep)), END_SECONDS)
        while not kill(sweep, kind, choose, toll):
            assert sweep.process.poll() is None, sweep.text()
    sweep = Sweep(SMALL, output, *PATIENT)
    assert sweep.finish(END_SECONDS) == 0, sweep.text()
    assert_nothing_lost(output, undisturbed)


@pytest.mark.long
def test_a_run_whose_processes_are_killed_at_random_ends_as_the_one_nobody_disturbed(
    undisturbed: Path, tmp_path: Path
) -> None:
    toll = Toll()
    kinds = ["teacher", "command", "worker", "damage"]
    folder = tmp_path / "outputs"  # what a teacher said before a kill is read after it
    kept = ("--set", f"operation.teacher_outputs={{folder: {folder}, gigabytes: 0.1}}")
    struck = disturbed_run(SMALL, tmp_path / "run", kinds, random.Random(1), toll, span=2.0, arguments=kept)
    assert struck == len(kinds)
    assert any(folder.rglob("*.outputs"))
    assert_nothing_lost(tmp_path / "run", undisturbed)
    print(toll.sentence())


@pytest.mark.parametrize(
    "equal",
    [
        pytest.param(False, id="nothing fails or is lost"),
        pytest.param(True, id="same bits", marks=pytest.mark.long),
    ],
)
def test_one_of_two_workers_is_killed_and_both_go_on_from_the_checkpoint(tmp_path: Path, equal: bool) -> None:
    """Two data-parallel workers, which must both be replaced, since one cannot go on alone."""
    two = ("--set", "compute.workers=2", "--set", "search.trials=0", "--set", "final.seeds=[1]")
    toll = Toll()
    struck = disturbed_run(
        SMALL, tmp_path / "run", ["worker"], random.Random(3), toll, span=3.0, arguments=two
    )
    assert struck == 1
    rows = trials(tmp_path / "run")
    assert set(rows.world_size) == {2}
    assert set(rows.status) == {"ok"}
    assert len(rows) == 3
    if equal:
        expected = run(SMALL, tmp_path / "expected", *two)
        assert expected.process.returncode == 0, expected.text()
        assert_nothing_lost(tmp_path / "run", tmp_path / "expected")


@pytest.mark.long
def test_the_node_that_trains_is_lost_and_another_goes_on(
    undisturbed: Path, tmp_path: Path, nodes_env: dict[str, str]
) -> None:
    """A head that trains nothing and two nodes that do, with addresses of their own."""
    output = tmp_path / "run"
    with ray_nodes.Cluster(tmp_path, nodes_env, nodes=2) as cluster:
        sweep = Sweep(SMALL, output, "--address", cluster.address, *PATIENT)
        sweep.wait_until(lambda: counted(output, phase="search", status="pruned") >= 2)
        cluster.lose_one_that_trains()
        assert sweep.finish(timeout=400) == 0, sweep.text()
    assert_nothing_lost(output, undisturbed)


def test_trials_that_hang_die_raise_or_want_too_much_memory_fail_alone(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Methods of another package, found by its entry points; the others' results are those of their absence."""
    monkeypatch.setenv("PYTHONPATH", f"{TROUBLES}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    document = yaml.safe_load(SMALL.read_text())
    document["methods"] = ["student", "raising", "hanging", "dying", "greedy", "greedy_when_whole"]
    document["search"] = {"trials": 1, "bracket": 1, "wave": 8, "rungs": [], "evaluations": 2}
    document["final"] = {"seeds": [1]}
    document["recipes"]["student"] |= {"steps": 24, "accumulate_if_out_of_memory": True}
    document["operation"]["step_timeout_seconds"] = 5
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
        "hanging": ["no progress within 5 s", "troubles.py", "time.sleep"],
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
    document["search"] = {"trials": 3, "bracket": 3, "wave": 9, "rungs": [0.5], "evaluations": 2}
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
