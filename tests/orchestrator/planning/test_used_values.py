"""Every value that a method or recipe used is recorded, searched or not, and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.catalogue.reader import load_catalogue
from distill.methods.config import parse_config
from distill.methods.factory import method_class
from orchestrator.leaderboard.files import write_leaderboard
from orchestrator.ledger.optuna_export import write_optuna_file
from orchestrator.ledger.queries import parameters_of
from orchestrator.ledger.row_builders import trial_row
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.method_settings import used_settings
from orchestrator.planning.plan import Trial, bracket_trials, make_plan
from orchestrator.protocol import Report
from tests.orchestrator.leaderboard.synthetic import Run, write_run
from tests.orchestrator.sweep_files import tiny_sweep


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *((name, {}) for name in load_catalogue().methods),
        ("heteroakd", {"preset": "stable", "final_relu": True}),
        ("kd+at", {"at.at_weight": 5.0}),
        ("kd+heteroakd", {"heteroakd.preset": "stable"}),
    ],
)
def test_recorded_settings_are_those_with_which_the_method_is_built(name: str, given: dict[str, Any]) -> None:
    built = parse_config(name, method_class(name).Config, given).model_dump(mode="json")
    flat = {
        key if part is None else f"{part}.{key}": value
        for part, settings in (built.items() if "+" in name else [(None, built)])
        for key, value in settings.items()
    }
    if "cwd_weight" in flat:
        flat["cwd_weight"] = 3.0
    assert used_settings(name, given) == flat


def test_a_default_that_depends_on_another_setting_is_recorded_as_used() -> None:
    assert used_settings("cwd", {"where": "features"})["cwd_weight"] == 50
    assert used_settings("kd+cwd", {"cwd.where": "features"})["cwd.cwd_weight"] == 50
    assert used_settings("cwd", {"where": "features", "cwd_weight": 2.0})["cwd_weight"] == 2


def test_a_weight_relative_to_the_task_is_recorded_under_its_own_name_only() -> None:
    used = used_settings("kd", {"balanced.kd_weight": 0.5})
    assert used == {"balanced.kd_weight": 0.5, "temperature": 1.0}


def rows(**changes: Any) -> list[dict[str, Any]]:
    """A row of each trial of the first search wave, or of the first final wave if nothing is searched."""
    plan = make_plan(tiny_sweep(**changes))
    cohort = plan.students[0]
    wave = cohort.waves[0]
    trials: list[Trial] = [
        trial for bracket in wave.brackets for trial in bracket_trials(plan.config, cohort, wave, bracket, {})
    ]
    return [
        trial_row(
            trial, cohort, 0, 1, [Report(trial.trial_id, 8, "ok", tune_miou=0.5, finished_at=1.0)],
            run_name="r", protocol="clean", family="logits", provenance_id="p", world_size=1, device="cpu",
        )
        for trial in trials
    ]  # fmt: skip


def test_a_trial_of_the_defaults_has_all_values_and_says_that_none_was_searched(tmp_path: Path) -> None:
    found = rows(search__trials=0)
    ledger = Ledger(tmp_path)
    ledger.append("trials", found, "all")
    table = {row["method"]: row for row in ledger.read("trials").to_pylist()}
    kd, alone = (parameters_of(table[method]["params"]) for method in ("kd", "student"))
    assert (kd["kd_weight"], kd["temperature"], kd["recipe.lr"]) == (1.0, 1.0, 1e-3)
    assert alone["recipe.weight_decay"] == 1e-4
    assert alone["recipe.augmentation.crop"] == [32, 32]
    assert table["kd"]["param_kd_weight"] == 1.0
    assert table["student"]["param_recipe.lr"] == 1e-3
    assert table["kd"]["searched"] == []


def test_a_searched_trial_says_what_was_drawn_beside_the_value_that_was_used() -> None:
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in rows():
        by_method.setdefault(row["method"], []).append(row)
    default, drawn, *_ = by_method["student"]
    assert default["searched"] == {"recipe.lr": None, "recipe.weight_decay": None}
    assert default["params"]["recipe.lr"] == 1e-3
    factor = drawn["searched"]["recipe.lr"]
    assert drawn["params"]["recipe.lr"] == pytest.approx(factor * 1e-3, rel=1e-5)
    _, drawn, *_ = by_method["kd"]
    assert drawn["params"]["kd_weight"] == drawn["searched"]["kd_weight"]
    assert drawn["searched"].keys() == {"recipe.lr", "recipe.weight_decay", "kd_weight", "temperature"}


def test_board_and_card_show_the_defaults_of_a_run_without_search_and_the_used_rate_of_one_with(
    tmp_path: Path,
) -> None:
    ledger = write_run(tmp_path, Run(pairs=("big_to_small",)))
    finals = [row for row in ledger.read("trials").to_pylist() if row["phase"] == "final"]
    used = {"weight": 0.125, "recipe.lr": 0.01, "recipe.steps": 100}
    for row in finals:
        drawn = {"recipe.lr": 2.0} if row["method"] == "student" else {}
        changed = {"attempt": 2, "params": used, "searched": drawn, "checkpoint": "models/x.safetensors"}
        ledger.append("trials", [{**row, **changed}], f"{row['trial_id']}-2")
    write_leaderboard([ledger])
    board = (tmp_path / "leaderboard" / "LEADERBOARD.md").read_text()
    method = next(row["method"] for row in finals if row["method"] != "student")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in board.splitlines()]
    assert [method, "weight", "0.125"] in [[*line[:2], line[-1]] for line in lines if len(line) > 2]
    assert any(line[:2] == ["student", "recipe.lr"] and "0.01 (2 × the recipe" in line[-1] for line in lines)
    assert "recipe.steps" not in board
    [card] = (tmp_path / "leaderboard" / "cards").iterdir()
    assert "- `weight`: `0.125`" in card.read_text()
    assert "- `recipe.steps`: `100`" in card.read_text()


def test_the_best_trial_of_optuna_has_the_defaults_where_they_won(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    config = tiny_sweep()
    ledger = Ledger(tmp_path / "run")
    found = [row for row in rows() if row["method"] in ("student", "kd")]
    ledger.append("trials", found, "all")
    written = yaml.safe_dump(config.model_dump(mode="json"))
    ledger.append("provenance", [{"provenance_id": "p", "config_yaml": written}], "p")
    write_optuna_file(ledger, tmp_path / "journal")
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal"))
    )
    defaults = {
        row["study_id"]: {
            trial.user_attrs["trial_id"]: trial
            for trial in optuna.load_study(study_name=row["study_id"], storage=storage).trials
        }[row["trial_id"]]
        for row in found
        if set(row["searched"].values()) == {None}
    }
    kd, alone = (next(t for s, t in defaults.items() if name in s) for name in (".kd.", ".student."))
    recipe = {"recipe.lr": 1.0, "recipe.weight_decay": 1.0}
    assert kd.params == {**recipe, "kd_weight": 1.0, "temperature": 1.0}
    assert alone.params == recipe
    assert alone.user_attrs["settings"]["recipe.lr"] == 1e-3
