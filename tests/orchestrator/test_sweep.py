"""The whole command, with real Ray: what must hold whatever happens to it on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from distill.catalogue.reader import load_catalogue
from orchestrator.ledger.tables import Ledger
from tests.faults.harness import processes
from tests.orchestrator.sweeps import SMALL, Sweep, assert_equal_runs, counted, curves, run, trials

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
same = pd.testing.assert_frame_equal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_sweep_fills_all_five_tables_and_writes_the_board(undisturbed: Path) -> None:
    tables = {name: Ledger(undisturbed).read(name).to_pandas() for name in
              ("trials", "curves", "counts", "models", "provenance")}  # fmt: skip
    assert {name: len(table) > 0 for name, table in tables.items()} == dict.fromkeys(tables, True)
    for name in ("trials", "curves"):
        assert len(list((undisturbed / "tables" / name).glob("*.parquet"))) == 1
    rows = pd.read_parquet(undisturbed / "tables" / "trials")
    assert rows.groupby(["phase", "status"]).size().to_dict() == {
        ("final", "ok"): 4, ("search", "ok"): 2, ("search", "pruned"): 6, ("teacher", "ok"): 1,
    }  # fmt: skip
    final = rows[rows.phase == "final"]
    assert final.test_miou.between(0, 1).all()
    assert rows[rows.phase == "search"].test_miou.isna().all()
    counts = tables["counts"]
    read = counts[counts.split == "test"].groupby("trial_id")["image"].nunique()
    assert (read == 8).all()
    for name in ("LEADERBOARD.md", "leaderboard.csv", "leaderboard.json"):
        assert (undisturbed / "leaderboard" / name).stat().st_size > 0


def test_the_same_command_again_trains_nothing_and_changes_nothing(undisturbed: Path) -> None:
    files = {path: path.read_bytes() for path in (undisturbed / "leaderboard").rglob("*") if path.is_file()}
    before = sorted(path.name for path in (undisturbed / "tables" / "trials").iterdir())
    sweep = run(SMALL, undisturbed, "--json")
    assert sweep.process.returncode == 0, sweep.text()
    assert sorted(path.name for path in (undisturbed / "tables" / "trials").iterdir()) == before
    csv = undisturbed / "leaderboard" / "leaderboard.csv"
    assert csv.read_bytes() == files[csv]


def test_a_sweep_stopped_by_ctrl_c_in_the_search_ends_as_one_that_ran_through(
    undisturbed: Path, folder: Path
) -> None:
    """And may go on with other seats at a time, since company changes nothing. A second command meanwhile is refused.

    Nor does it matter that the process of Tune's which serves all trials of the phase is killed on the way.
    """
    sweep = Sweep(SMALL, folder)
    sweep.wait_until(lambda: (folder / "plan.json").exists())
    second = Sweep(SMALL, folder, log=folder.with_name("second.log"))
    assert second.finish() == 2, second.text()
    assert f"held by process {sweep.process.pid}" in second.text()
    sweep.wait_until(lambda: counted(folder, phase="search", status="pruned") >= 2)
    sweep.interrupt()
    assert sweep.finish() == 130, sweep.text()
    assert counted(folder, phase="search", status="ok") < 2
    assert not (folder / "lock.json").exists()
    again = Sweep(SMALL, folder, "--set", "operation.students_on_device=1")
    assert losing_tunes_process(again) == 2, again.text()
    assert again.finish() == 0, again.text()
    assert_equal_runs(folder, undisturbed)


def test_a_sweep_stopped_once_its_search_has_ended_chooses_the_same_finalist(tmp_path: Path) -> None:
    """The finalists are trials like the rest: they train again or go on, and the choice among them is the same."""
    settings = (
        "methods=[student]",
        "search.rungs=[0.5]",
        "search.finalists=2",
        "search.finalist_seeds=[101]",
        "final.seeds=[1]",
    )
    chosen = [f"--set={setting}" for setting in settings]
    expected, folder = tmp_path / "expected", tmp_path / "run"
    assert run(SMALL, expected, *chosen).process.returncode == 0
    assert counted(expected, phase="selection", status="ok") == 2
    cut = Sweep(SMALL, folder, *chosen)
    cut.wait_until(lambda: counted(folder, phase="search", status="ok") == 2)
    cut.interrupt()
    assert cut.finish() == 130, cut.text()
    assert counted(folder, phase="final") == 0
    again = run(SMALL, folder, *chosen)
    assert again.process.returncode == 0, again.text()
    assert_equal_runs(folder, expected)


def losing_tunes_process(sweep: Sweep) -> int:
    """How many there were until the sweep's end, never two at a time; the first is killed as soon as it is seen."""
    seen: list[int] = []
    try:
        while sweep.process.poll() is None:
            at_work = set(processes(sweep, "ResourceTrainable")) - set(seen[:1])
            assert len(at_work) <= 1
            if not seen and at_work:
                os.kill(*at_work, signal.SIGKILL)
            seen += at_work - set(seen)
            time.sleep(0.1)
    finally:
        sweep.end()
    return len(seen)


def with_a_broken_study(source: Path) -> Path:
    """All of its trials but the default have a loss that is not finite."""
    document = yaml.safe_load(SMALL.read_text())
    absurd = {"recipe.lr": {"uniform": [1e25, 1e26]}}
    document["methods"].append({"name": "student", "label": "broken", "space": absurd})
    document["search"]["wave"] = 12
    source.write_text(yaml.safe_dump(document))
    return source


@pytest.mark.long
def test_a_study_whose_loss_is_not_finite_leaves_alone(undisturbed: Path, folder: Path) -> None:
    """Its trials fail with term and step; every other trial is the same to the bit; the exit code says it."""
    sweep = run(with_a_broken_study(folder.with_suffix(".yaml")), folder)
    assert sweep.process.returncode == 3, sweep.text()
    rows = trials(folder)
    broken = rows[rows.status == "failed"]
    assert len(broken) == 3
    assert set(broken.method) == {"broken"}
    assert broken.error.str.contains("not finite at step").all()
    assert all((folder / "logs" / f"{trial_id}.txt").exists() for trial_id in broken.index)
    others = rows[rows.method != "broken"]
    same(others.drop(columns="wave"), trials(undisturbed).drop(columns="wave"), check_exact=True)
    found, expected = curves(folder), curves(undisturbed)
    same(found[found.trial_id.isin(others.index)].reset_index(drop=True), expected, check_exact=True)
    text = (folder / "leaderboard" / "LEADERBOARD.md").read_text()
    assert "broken" in text


@pytest.mark.long
def test_what_failed_is_tried_once_more_and_with_fail_fast_up_to_the_first_failure(folder: Path) -> None:
    source = with_a_broken_study(folder.with_suffix(".yaml"))
    assert run(source, folder).process.returncode == 3
    again = run(source, folder, "--retry-failed", "--fail-fast")
    assert again.process.returncode == 3, again.text()
    assert "stopped: a trial failed" in again.text()
    assert 1 <= counted(folder, status="failed", attempt=2) <= 3
    assert counted(folder, status="failed", attempt=1) == 3


def test_a_budget_that_is_used_up_before_anything_begins_starts_no_ray(folder: Path) -> None:
    sweep = Sweep(SMALL, folder, "--set", "budget.hours=1e-9")
    seen: set[int] = set()
    while sweep.process.poll() is None:
        seen |= set(processes(sweep, "raylet"))
        time.sleep(0.05)
    assert sweep.finish() == 4, sweep.text()
    assert not seen
    assert "budget.hours" in sweep.text()
    assert not (folder / "lock.json").exists()


@pytest.mark.long
def test_a_budget_that_is_used_up_on_the_way_ends_the_sweep_in_order_and_more_of_it_goes_on(
    undisturbed: Path, folder: Path
) -> None:
    sweep = run(SMALL, folder, "--set", "budget.hours=0.005")
    assert sweep.process.returncode == 4, sweep.text()
    assert "budget.hours" in sweep.text()
    assert not (folder / "lock.json").exists()
    again = run(SMALL, folder, "--set", "budget.hours=1")
    assert again.process.returncode == 0, again.text()
    assert_equal_runs(folder, undisturbed)


def test_a_dry_run_prints_a_plan_and_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from orchestrator.sweep import SweepOptions, command; "
        "code = command(SweepOptions(source='smoke', dry_run=True, json=True)); "
        "assert not {'torch', 'ray', 'timm'} & set(sys.modules), 'heavy import'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["phases"]["search"]["trials"] == plan["studies"] * plan["trials_per_study"]
    assert plan["worker_hours"] > 0


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['sweep', '--help']\nimport orchestrator.sweep\n"
        "try:\n    orchestrator.sweep.main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'ray', 'pandas', 'matplotlib', 'pyarrow'} & set(sys.modules), 'heavy import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--dry-run" in done.stdout


@pytest.mark.long
def test_every_method_and_a_combination_run_in_both_directions_and_stand_on_the_board(folder: Path) -> None:
    methods = [*sorted(load_catalogue().methods), "kd+cwd"]
    sweep = Sweep("smoke", folder, "--set", f"methods={json.dumps(methods)}", "--set", "search.trials=0",
                  "--set", "search.wave=4", "--set", "final.seeds=[1]", "--set", "recipes.student.steps=4")  # fmt: skip
    assert sweep.finish(timeout=500) == 0, sweep.text()
    rows = pd.read_csv(folder / "leaderboard" / "leaderboard.csv").set_index("method")
    assert sorted(rows.index) == sorted(methods)
    assert rows.miou.notna().all()
    assert (rows.pairs == 2).all()
    assert (rows.failures == 0).all()
