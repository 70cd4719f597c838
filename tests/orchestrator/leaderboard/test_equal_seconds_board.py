"""A board of equal seconds: from tables of two runs, or of one run that has both."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from distill.errors import UsageError
from distill.export.source import _row, _Run
from orchestrator import load_run
from orchestrator.console.run_view import run_view
from orchestrator.leaderboard.files import write_leaderboard
from orchestrator.leaderboard.run_records import read_run_records
from orchestrator.leaderboard.training_curves import read_curves
from orchestrator.ledger.tables import Ledger
from tests.orchestrator.leaderboard.synthetic import Run, write_run

STEPS = Run(name="steps", pairs=("big_to_small",))
SECONDS = STEPS.but(name="seconds", compare="seconds", gains={"student": 0.0, "kd": -0.05, "cwd": 0.04})


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run of an earlier version, without the column `compare`, and of a run at equal seconds."""
    folder = tmp_path_factory.mktemp("joined")
    runs = [write_run(folder / run.name, run) for run in (STEPS, SECONDS)]
    write_leaderboard(runs, folder / "board")
    return folder / "board"


def test_methods_are_ranked_and_paired_within_equal_steps_and_within_equal_seconds(
    joined: Path, tmp_path: Path
) -> None:
    rows = pd.read_csv(joined / "leaderboard.csv")
    assert list(rows.columns)[-1] == "compare"
    assert rows["compare"].tolist() == ["steps"] * 3 + ["seconds"] * 3
    for run in (STEPS, SECONDS):
        write_leaderboard([write_run(tmp_path / run.name, run)], tmp_path / f"{run.name}-board")
        alone = pd.read_csv(tmp_path / f"{run.name}-board" / "leaderboard.csv")
        mine = rows[rows["compare"] == (run.compare or "steps")].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, alone, check_exact=True)
    gains = rows.set_index(["compare", "method"])["gain"]
    assert gains["steps", "kd"] > 0 > gains["seconds", "kd"]


def test_a_study_at_equal_seconds_has_curves_of_its_own(tmp_path: Path) -> None:
    """Its search is drawn although the study of the same method at equal steps has final runs."""
    searched = SECONDS.but(searched_only=frozenset({"kd"}))
    ledgers = [write_run(tmp_path / run.name, run) for run in (STEPS, searched)]
    found = {(c.compare, c.method, c.phase) for c in read_curves(ledgers, read_run_records(ledgers))}
    assert found == {
        *(("steps", method, "final") for method in ("student", "kd", "cwd")),
        ("seconds", "student", "final"), ("seconds", "cwd", "final"), ("seconds", "kd", "search"),
    }  # fmt: skip


def test_every_file_says_which_rows_are_at_equal_seconds(joined: Path) -> None:
    expected = ["steps"] * 3 + ["seconds"] * 3
    assert [row["compare"] for row in json.loads((joined / "leaderboard.json").read_text())] == expected
    assert (
        pd.read_parquet(io.BytesIO((joined / "leaderboard.parquet").read_bytes()))["compare"].tolist()
        == expected
    )
    assert {row["compare"] for row in json.loads((joined / "students.json").read_text())} == set(expected)
    for page in ("LEADERBOARD.md", "leaderboard.html"):
        text = (joined / page).read_text()
        assert "scenes · clean · equal steps" in text
        assert "scenes · clean · equal seconds" in text
        assert "cwd 50 (2); kd 50 (2); student 100 (1)" in text


def test_both_are_shown_beside_each_other_by_method(joined: Path) -> None:
    text = (joined / "LEADERBOARD.md").read_text()
    section = text.partition("equal steps beside equal seconds\n")[2].partition("\n## ")[0]
    lines = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")]
    rows = pd.read_csv(joined / "leaderboard.csv").set_index(["compare", "method"])
    for method, steps, seconds, *_ in lines[2:]:
        for basis, shown in (("steps", steps), ("seconds", seconds)):
            assert shown == f"{100 * rows.loc[(basis, method[2:]), 'miou']:.1f}"
    assert {line[0] for line in lines[2:]} == {"| student", "| kd", "| cwd"}
    assert "equal steps beside equal seconds" in (joined / "leaderboard.html").read_text()


def test_a_run_at_equal_steps_alone_has_nothing_beside_it(tmp_path: Path) -> None:
    written = write_leaderboard([write_run(tmp_path, STEPS)])
    assert "equal s" not in Path(written.path).read_text()


def test_export_card_and_python_choose_the_student_of_one_of_the_boards(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, STEPS.but(compare="steps"))
    _append(ledger, tmp_path / "other")
    write_leaderboard([ledger])
    found = {basis: _row(_Run(str(tmp_path)), None, "kd", basis) for basis in (None, "steps", "seconds")}
    assert [row["compare"] for row in found.values()] == ["steps", "steps", "seconds"]
    assert "a step costs 2 times as much" in found["seconds"]["card"]
    assert "a step costs" not in found["steps"]["card"]
    run = load_run(tmp_path)
    assert (
        run.gain("kd").mean
        == run.gain("kd", compare="steps").mean
        > 0
        > run.gain("kd", compare="seconds").mean
    )
    with pytest.raises(UsageError, match="compare 'minutes' is not known"):
        run.gain("kd", compare="minutes")
    only = write_run(tmp_path / "only", STEPS)
    write_leaderboard([only])
    with pytest.raises(UsageError, match="compares methods at equal steps; --compare is seconds"):
        _row(_Run(str(tmp_path / "only")), None, None, "seconds")


def test_show_lists_the_studies_at_equal_seconds_apart(tmp_path: Path) -> None:
    ledger = write_run(tmp_path / "run", STEPS)
    _append(ledger, tmp_path / "other")
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(run_view(ledger))
    rows = [line.split("│") for line in console.export_text().splitlines()]
    finals = {cells[1].strip(): cells[5].strip() for cells in rows if len(cells) == 8}
    assert finals == dict.fromkeys(
        [f"{method}{basis}" for method in ("cwd", "kd", "student") for basis in ("", ", seconds")], "3"
    )


def _append(ledger: Ledger, folder: Path) -> None:
    """Add the trials of a run at equal seconds to a run at equal steps, as one sweep with both has them."""
    other = write_run(folder, SECONDS)
    students = [row for row in other.read("trials").to_pylist() if row["phase"] != "teacher"]
    ledger.append("trials", students, "seconds")
    ledger.append("counts", other.read("counts"), "seconds")
