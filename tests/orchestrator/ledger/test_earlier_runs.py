"""`search.from`: what earlier runs say about where to begin. Without Ray; the earlier runs are rows of made-up scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill.errors import UsageError
from distill.yaml_reader import to_yaml
from orchestrator.ledger.earlier_runs import with_first_configurations
from orchestrator.ledger.row_builders import trial_row
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.plan import make_plan
from orchestrator.planning.replay import replay
from orchestrator.protocol import Report
from tests.orchestrator.sweep_files import tiny_sweep

SPACE = {"kd_weight": {"log_uniform": [0.1, 10]}, "recipe.lr": {"scale_log_uniform": [0.25, 4]}}
METHODS: list[Any] = ["student", {"name": "kd", "space": SPACE}]


def earlier(root: Path, *, methods: list[Any] = METHODS, **changes: Any) -> Path:
    """A run with a search whose best trial of each study is the one with the largest `kd_weight`."""
    config = tiny_sweep(methods=methods, search__trials=8, search__bracket=8, **changes)
    plan = make_plan(config)
    ledger = Ledger(root)
    ledger.append("provenance", [provenance(config)], "p")
    cohort = plan.students[0]
    rows = [
        trial_row(
            trial, cohort, 0, 1, [Report(trial.trial_id, 8, status="ok", tune_miou=float(trial.params.get("kd_weight", 0)) / 10)],
            run_name="earlier", protocol="clean", family="x", provenance_id="p", world_size=1, device="cpu",
        )
        for trial in replay(plan, {}).trials.values()
        if trial.phase == "search"
    ]  # fmt: skip
    ledger.append("trials", rows, "all")
    return root


def provenance(config: SweepConfig) -> dict[str, Any]:
    return {"provenance_id": "p", "config_yaml": to_yaml(config.model_dump(mode="json"))}


def best_weights(config: SweepConfig) -> list[float]:
    return [float(point["kd_weight"]) for point in config.search.first.get("kd", ())]


def begun(
    run: Path, *earlier_runs: Path, methods: list[Any] = METHODS, **changes: Any
) -> tuple[SweepConfig, list[str]]:
    config = tiny_sweep(methods=methods, search__trials=8, search__bracket=8, search__from=[*map(str, earlier_runs)], **changes)  # fmt: skip
    return with_first_configurations(config, Ledger(run), fresh=False)


def test_a_study_begins_with_its_defaults_and_then_with_what_was_best_before(tmp_path: Path) -> None:
    run = earlier(tmp_path / "a")
    config, _ = begun(tmp_path / "new", run)
    weights = best_weights(config)
    assert weights == sorted(weights, reverse=True)
    assert len(weights) == 4
    trials = [
        t for t in replay(make_plan(config), {}).trials.values() if t.method == "kd" and t.phase == "search"
    ]
    assert [t.params for t in trials][:5] == [{}, *config.search.first["kd"]]
    assert len(trials) == 8  # the earlier run had the same seed, and none of its points is drawn again


def test_the_folder_of_an_earlier_run_changes_no_id(tmp_path: Path) -> None:
    plans = [make_plan(begun(tmp_path / "new", earlier(tmp_path / name))[0]) for name in ("a", "b")]
    assert plans[0].plan_hash == plans[1].plan_hash
    assert list(replay(plans[0], {}).trials) == list(replay(plans[1], {}).trials)


def test_a_run_that_resumes_keeps_its_first_configurations_when_the_earlier_run_is_gone(
    tmp_path: Path,
) -> None:
    run, new = earlier(tmp_path / "a"), tmp_path / "new"
    config, _ = begun(new, run)
    Ledger(new).append("provenance", [provenance(config)], "p")
    (tmp_path / "a").rename(tmp_path / "gone")
    again, _ = begun(new, run)
    assert again == config


def test_what_is_outside_of_the_search_space_is_left_out_and_said(tmp_path: Path) -> None:
    run = earlier(tmp_path / "a")
    narrow = ["student", {"name": "kd", "space": {**SPACE, "kd_weight": {"log_uniform": [0.1, 1]}}}]
    config, notes = begun(tmp_path / "new", run, methods=narrow)
    assert max(best_weights(config)) <= 1
    assert any("outside of the search space" in note and "configurations of kd" in note for note in notes)


def test_a_parameter_that_was_fixed_then_has_the_value_that_was_used(tmp_path: Path) -> None:
    run = earlier(tmp_path / "a")
    wider = ["student", {"name": "kd", "space": {**SPACE, "temperature": {"log_uniform": [0.5, 8]}, "recipe.weight_decay": {"scale_log_uniform": [0.1, 10]}}}]  # fmt: skip
    config, _ = begun(tmp_path / "new", run, methods=wider)
    assert {(p["temperature"], p["recipe.weight_decay"]) for p in config.search.first["kd"]} == {(1.0, 1.0)}


def test_an_earlier_run_that_says_nothing_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"search.from has .*nothing.* holds no tables"):
        begun(tmp_path / "new", tmp_path / "nothing")
    run = earlier(tmp_path / "a", methods=["student", "cwd"])
    with pytest.raises(UsageError, match=r"search trials of cwd, student; name a run with a search of kd"):
        begun(tmp_path / "new", run, methods=[{"name": "kd", "space": SPACE}])
    other = earlier(tmp_path / "b", methods=["student", {"name": "cwd", "label": "kd"}])
    with pytest.raises(UsageError, match=r"'kd' is the method cwd and not kd"):
        begun(tmp_path / "new", other)
