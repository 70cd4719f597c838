from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from distill.errors import UsageError
from orchestrator import load_run, run_sweep
from tests.orchestrator.leaderboard.synthetic import Run, write_run

SMALLEST = Path(__file__).resolve().parents[1] / "faults" / "smallest.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api") / "run"
    write_run(folder, Run(seeds=(1, 2, 3, 4, 5)))
    return folder


def test_reading_a_run_imports_neither_torch_nor_ray(folder: Path) -> None:
    code = (
        "import sys, orchestrator; run = orchestrator.load_run(sys.argv[1]); run.trials; run.leaderboard;"
        "print([name for name in ('torch', 'ray') if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


def test_a_run_is_data_frames(folder: Path) -> None:
    run = load_run(folder)
    finals = run.trials[(run.trials["phase"] == "final") & (run.trials["method"] == "kd")]
    assert len(finals) == 5 * 2
    assert isinstance(run.trials["params"].iloc[0], dict)
    written = pd.DataFrame(json.loads((write_page(folder) / "leaderboard.json").read_text()))
    pd.testing.assert_frame_equal(run.leaderboard, written)
    assert run.failures.empty


def write_page(folder: Path) -> Path:
    load_run(folder).page()
    return folder / "leaderboard"


def test_a_gain_is_the_board_s_on_a_pair_and_over_pairs(folder: Path) -> None:
    run = load_run(folder)
    over_pairs = run.gain("cwd")
    row = run.leaderboard.set_index("method").loc["cwd"]
    assert (over_pairs.mean, over_pairs.surely) == (pytest.approx(row["gain"], abs=1e-9), row["surely"])
    on_pair = run.gain("cwd", "big_to_small")
    finals = run.trials[(run.trials["phase"] == "final") & (run.trials["pair"] == "big_to_small")]
    scores = finals.pivot_table(index="seed", columns="method", values="test_miou")
    assert on_pair.mean == pytest.approx(float(np.mean(scores["cwd"] - scores["student"])), abs=1e-6)
    assert str(on_pair).startswith(f"{100 * on_pair.mean:+.1f} points [")


def test_the_best_student_is_that_of_the_best_method_on_the_pair(folder: Path) -> None:
    run = load_run(folder)
    assert run.best("big_to_small").method == "cwd"
    assert run.best("big_to_small", "kd").method == "kd"
    with pytest.raises(UsageError, match="has 2 pairs, give one of them: big_to_small, wide_to_thin"):
        run.best()
    with pytest.raises(UsageError, match="did you mean 'big_to_small'"):
        run.best("big_to_smal")
    with pytest.raises(UsageError, match="did you mean 'cwd'"):
        run.gain("cwdd")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=str(tmp_path)):
        load_run(tmp_path)


def test_a_sweep_that_is_not_valid_is_an_error_and_its_file_can_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = {**yaml.safe_load(SMALLEST.read_text()), "name": "mine", "search": {"trials": -1}}
    with pytest.raises(UsageError, match=r"runs/mine\.yaml:\d+: .*trials is -1"):
        run_sweep(config)
    assert yaml.safe_load((tmp_path / "runs" / "mine.yaml").read_text()) == config


@pytest.mark.ray
@pytest.mark.long
def test_a_sweep_from_python_ends_as_a_run_and_resumes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(SMALLEST.read_text())
    run = run_sweep(config, tmp_path / "run", settings={"search.trials": 0, "final.seeds": [1]})
    assert "gain over the student" in capfd.readouterr().out
    assert len(run.trials[run.trials["phase"] == "final"]) == len(run.leaderboard)
    student = run.best(method="student").load()
    assert set(np.unique(student.labels(np.zeros((32, 48, 3), np.uint8)))) <= set(range(len(student.classes)))
    again = run_sweep(
        tmp_path / "run.yaml", tmp_path / "run", settings={"search.trials": 0, "final.seeds": [1]}
    )
    pd.testing.assert_frame_equal(again.trials, run.trials)
