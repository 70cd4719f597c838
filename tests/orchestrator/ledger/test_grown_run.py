"""A run of a longer sweep file in the folder of a shorter one: its tables, its plan and its board. Without Ray; scores are made up."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from distill.errors import UsageError
from orchestrator.console.run_view import run_view
from orchestrator.controller.run_state import Run
from orchestrator.leaderboard.files import write_leaderboard
from orchestrator.ledger.recorded import Choices, choices_of
from orchestrator.ledger.repair import repair_run
from orchestrator.ledger.run_folder import check_run_folder, claim_run_folder
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.plan import Plan, make_plan
from tests.faults.table_harms import CutError, train
from tests.orchestrator.sweep_files import tiny_sweep
from tests.orchestrator.sweeps import board

SHORT = make_plan(tiny_sweep(methods=["student", "kd"], final__seeds=[1]))
LONG = make_plan(tiny_sweep(search__trials=8, final__seeds=[1, 2, 3]))


def recorded(root: str | Path, plan: Plan = LONG) -> dict[str, tuple[str, dict[int, float]]]:
    return {t: (r.status, dict(r.scores)) for t, r in Run(Ledger(root), plan).recorded().items()}


def board_text(root: str | Path) -> str:
    write_leaderboard([Ledger(root)])
    return Ledger(root).read_bytes("leaderboard/LEADERBOARD.md").decode()


@pytest.mark.parametrize("place", ["disk", pytest.param("bucket", marks=pytest.mark.long)])
def test_a_run_that_grew_has_the_trials_and_the_board_of_the_long_one_and_keeps_all_that_it_had(
    tmp_path: Path, place: str, request: pytest.FixtureRequest
) -> None:
    """Also after a kill in between. A former choice's final runs stay in the tables, and are not on the board."""
    folder: str | Path = tmp_path / "run"
    if place == "bucket":
        server = request.getfixturevalue("s3_server")
        folder = f"s3://runs/grown?endpoint_override={server}&scheme=http"
    train(folder, plan=SHORT)
    ledger, before = Ledger(folder), recorded(folder)
    growth = check_run_folder(ledger, LONG, fresh=False)
    assert growth is not None
    assert growth.kept == 8
    with pytest.raises(CutError):
        train(folder, plan=LONG, cut_after=5)
    assert repair_run(ledger, LONG) == []
    assert choices_of(ledger).undecided
    assert "goes on: the final runs are of the choice so far" in board_text(folder)
    train(folder, plan=LONG)
    at_once = tmp_path / "at once"
    train(at_once, plan=LONG)
    found, expected = recorded(folder), recorded(at_once)
    assert before.items() <= found.items()
    assert expected.items() <= found.items()
    former = found.keys() - expected.keys()
    assert former, "the made-up scores choose another configuration"
    assert choices_of(ledger) == Choices(frozenset(former))
    assert choices_of(Ledger(at_once)) == Choices()
    text = board_text(folder)
    assert "a longer search chose another configuration" in text
    board_text(at_once)
    pd.testing.assert_frame_equal(board(folder), board(at_once), check_exact=True)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(run_view(ledger))
    assert (
        f"{len(former)} final runs are of a configuration that a longer search has replaced"
        in console.export_text()
    )


def test_a_shorter_sweep_file_is_refused_and_the_run_stays_as_it_is(tmp_path: Path) -> None:
    train(tmp_path / "run", plan=LONG)
    ledger = Ledger(tmp_path / "run")
    files = {path: ledger.read_bytes(path) for path in ledger.list()}
    with pytest.raises(UsageError, match="method heteroakd is not in the sweep file any more") as refusal:
        claim_run_folder(ledger, SHORT, fresh=False)
    for told in ("final seed 3", "search.trials is 4, was 8", "another --output", "--fresh"):
        assert told in str(refusal.value)
    assert {path: ledger.read_bytes(path) for path in ledger.list()} == files


def test_a_growth_of_which_nothing_was_trained_can_be_taken_back(tmp_path: Path) -> None:
    train(tmp_path / "run", plan=SHORT)
    ledger = Ledger(tmp_path / "run")
    before = recorded(ledger.root, SHORT)
    claim_run_folder(ledger, LONG, fresh=False)
    assert json.loads(ledger.read_bytes("plan.json"))["plan_hash"] == LONG.plan_hash
    claim_run_folder(ledger, SHORT, fresh=False)
    assert json.loads(ledger.read_bytes("plan.json"))["plan_hash"] == SHORT.plan_hash
    assert recorded(ledger.root, SHORT) == before


def test_weights_that_were_put_there_for_a_teacher_that_the_growth_adds_are_not_deleted(
    tmp_path: Path,
) -> None:
    train(tmp_path / "run", plan=SHORT)
    ledger = Ledger(tmp_path / "run")
    pair = tiny_sweep().pairs[0].model_dump(mode="json", exclude_unset=True)
    other = {**pair, "name": "other", "teacher": {**pair["teacher"], "seed": 7}}
    longer = make_plan(tiny_sweep(methods=["student", "kd"], final__seeds=[1], pairs=[pair, other]))
    (added,) = {t.teacher_id for t in longer.teachers} - {t.teacher_id for t in SHORT.teachers}
    path = f"teachers/{added}.safetensors"
    empty = (2).to_bytes(8, "little") + b"{}"
    ledger.write_bytes(path, empty)
    assert repair_run(ledger, longer) == []
    assert ledger.exists(path)
    claim_run_folder(ledger, longer, fresh=False)
    row = {"provenance_id": "q", "plan_hash": longer.plan_hash, "teacher_sha256": {}}
    ledger.append("provenance", [row], "q")
    assert "it is trained again" in repair_run(ledger, longer)[0], "then the weights are of a cut training"
