from __future__ import annotations

import datetime
import sys
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console

from distill.errors import UsageError
from orchestrator.console.run_view import chart, run_view, trial_view
from orchestrator.ledger.optuna_export import write_optuna_file
from orchestrator.ledger.tables import Ledger
from orchestrator.show import main


def text_of(view: object) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(view)
    return console.export_text()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "run")
    common = {"attempt": 1, "pair": "big_to_small", "method": "kd", "dataset": "scenes", "provenance_id": "p"}
    ended = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
    rows = [
        {"trial_id": "aa1", "phase": "search", "status": "ok", "tune_miou": 0.5, "params": {"t": 4.0}},
        {"trial_id": "ab2", "phase": "search", "status": "ok", "tune_miou": 0.6, "finished_at": ended},
        {"trial_id": "ac3", "phase": "search", "status": "pruned", "tune_miou": 0.9},
        {"trial_id": "f1", "phase": "final", "status": "ok", "test_miou": 0.71, "student_seconds": 3.25},
        {
            "trial_id": "f2",
            "phase": "final",
            "status": "failed",
            "error": "T\nValueError: [bold]nan",
            "error_step": 9,
        },
    ]
    ledger.append("trials", [{**common, **row} for row in rows], "all")
    terms = {"terms_raw": {"task": 1.0, "kd": 20.0}, "terms_weighted": {"task": 1.0, "kd": 3.0}}
    curve = [
        {"trial_id": "aa1", "step": step, "loss_total": 4.0 - step, "tune_miou": step / 10, **terms}
        for step in range(1, 4)
    ]
    ledger.append("curves", curve, "aa1")
    ledger.append(
        "provenance",
        [{"provenance_id": "p", "command": "python -m orchestrator.sweep x", "commit": "c0"}],
        "p",
    )
    return ledger


def test_a_run_shows_counts_best_trials_failures_and_its_command(ledger: Ledger) -> None:
    text = text_of(run_view(ledger))
    assert "python -m orchestrator.sweep x" in text
    lines = [line.split("│") for line in text.splitlines()]
    cells = [[cell.strip() for cell in line[1:-1]] for line in lines]
    assert ["search", "2", "1", "0"] in cells
    assert ["kd", "3", "60.00", "ab2", "2", "71.00"] in cells, "a pruned trial's score is of fewer steps"
    assert ["f2", "final", "big_to_small", "kd", "9", "ValueError: [bold]nan"] in cells


def test_a_trial_shows_its_configuration_curve_terms_and_command(ledger: Ledger) -> None:
    text = text_of(trial_view(ledger, "aa1"))
    for told in (
        "search, ok, attempt 1",
        "· t",
        "4.0",
        "mIoU on tune",
        "total loss",
        "python -m orchestrator.sweep x",
    ):
        assert told in text
    lines = [line.split() for line in text.replace("│", " ").splitlines()]
    assert ["kd", "20", "3", "75", "%"] in lines
    assert ["task", "1", "1", "25", "%"] in lines


def test_a_failed_trial_shows_its_whole_error(ledger: Ledger) -> None:
    assert "Error at step 9\nT\nValueError: [bold]nan" in "\n".join(
        line.rstrip() for line in text_of(trial_view(ledger, "f2")).splitlines()
    )


def test_a_single_report_is_told_and_not_drawn(ledger: Ledger) -> None:
    ledger.append("curves", [{"trial_id": "f1", "step": 400, "tune_miou": 0.68}], "f1")
    text = text_of(trial_view(ledger, "f1"))
    assert "mIoU on tune: 68 at step 400" in text
    assert "█" not in text
    assert "Reproduce (commit c0)" in text


def test_a_trials_log_is_shown_from_its_end(ledger: Ledger) -> None:
    ledger.write_bytes("logs/f2-rank1.txt", "\n".join(f"line {n}." for n in range(40)).encode())
    ledger.write_bytes("logs/aa1.txt", b"of another trial")
    text = text_of(trial_view(ledger, "f2"))
    assert "logs/f2-rank1.txt" in text.replace("\n", "")
    assert "line 39." in text
    assert "line 20." in text
    assert "line 19." not in text
    assert "of another trial" not in text


def test_the_beginning_of_an_id_is_enough_when_it_is_the_only_one(ledger: Ledger) -> None:
    assert "Trial ab2" in text_of(trial_view(ledger, "ab"))
    with pytest.raises(UsageError, match="'a' could be any of 3: aa1, ab2, ac3"):
        trial_view(ledger, "a")
    with pytest.raises(UsageError, match="did you mean 'ab2'"):
        trial_view(ledger, "bb2")


def test_a_run_without_trials_says_so(tmp_path: Path) -> None:
    assert "No trial has ended yet." in text_of(run_view(Ledger(tmp_path)))


def test_a_chart_rises_with_its_values_and_names_its_range() -> None:
    lines = chart([(step, float(step)) for step in range(1, 9)], width=8, height=2)
    assert [line.strip() for line in lines] == ["8 │    ▁▃▅█", "1 │▁▃▅▇████", "step  1      8"]
    assert chart([]) == []
    assert chart([(1, float("nan"))]) == []
    assert len(chart([(1, 2.0), (2, float("inf")), (3, 2.0)], height=3)) == 4


def test_the_command_exits_with_2_where_there_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["show", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "holds no tables; give the folder of a run" in capsys.readouterr().err


CONFIG = """
name: tiny
data: {scenes: {kind: scenes}}
recipes: {short: {steps: 12, batch_size: 4, augmentation: {crop: 32}, lr: 1.0e-3}}
pairs:
  - teacher: {model: big, recipe: short}
    student: {model: small, recipe: short}
    data: scenes
methods: [student, {name: kd, space: {kd_weight: {log_uniform: [0.1, 10]}}}]
search: {trials: 3, bracket: 3, wave: 6}
final: {seeds: [1, 2, 7]}
"""


def test_a_search_becomes_studies_that_optuna_reads_back(ledger: Ledger, tmp_path: Path) -> None:
    rows = ledger.read("trials").to_pylist()
    known = {"kd_weight": 1.0, "temperature": 4.0}
    searched = [
        {
            **row,
            "attempt": 2,
            "study_id": "big_to_small.kd.0",
            "params": known if row["trial_id"] == "aa1" else {},
        }
        for row in rows
        if row["phase"] == "search"
    ]
    failed = {**searched[0], "trial_id": "ad4", "status": "failed", "tune_miou": None, "error": "T\nnan"}
    ledger.append("trials", [*searched, failed], "again")
    ledger.append("provenance", [{"provenance_id": "q", "config_yaml": CONFIG}], "q")
    file = tmp_path / "studies" / "run.journal"
    assert write_optuna_file(ledger, file) == (1, 4)
    storage = JournalStorage(JournalFileBackend(str(file)))
    study = optuna.load_study(study_name="big_to_small.kd.0", storage=storage)
    by_id = {trial.user_attrs["trial_id"]: trial for trial in study.trials}
    states = {name: trial.state.name for name, trial in by_id.items()}
    assert states == {"aa1": "COMPLETE", "ab2": "COMPLETE", "ac3": "PRUNED", "ad4": "FAIL"}
    assert (study.best_trial.user_attrs["trial_id"], study.best_value) == ("ab2", 0.6)
    assert by_id["aa1"].params == known
    assert by_id["aa1"].intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3}
    assert by_id["ad4"].user_attrs["error"] == "T\nnan"
    with pytest.raises(UsageError, match="exists, and a study file only grows"):
        write_optuna_file(ledger, file)


def test_parameters_keep_the_ranges_of_the_runs_own_config(ledger: Ledger, tmp_path: Path) -> None:
    row = next(row for row in ledger.read("trials").to_pylist() if row["trial_id"] == "aa1")
    study = {**row, "attempt": 2, "study_id": "s", "provenance_id": "q"}
    ledger.append("trials", [{**study, "params": {"kd_weight": 1.0, "old": "x"}}], "again")
    ledger.append("provenance", [{"provenance_id": "q", "config_yaml": CONFIG}], "q")
    write_optuna_file(ledger, tmp_path / "run.journal")
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "run.journal")))
    distributions = optuna.load_study(study_name="s", storage=storage).trials[0].distributions
    assert distributions["kd_weight"] == FloatDistribution(0.1, 10, log=True)
    assert distributions["old"] == CategoricalDistribution(("x",))


def test_a_run_that_searched_nothing_has_no_study_to_write(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append("provenance", [{"provenance_id": "p"}], "p")
    with pytest.raises(UsageError, match="has no search trial yet"):
        write_optuna_file(ledger, tmp_path / "x.journal")
    assert not (tmp_path / "x.journal").exists()
