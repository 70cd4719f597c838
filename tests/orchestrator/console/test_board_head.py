from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.console.board_head import ROWS, board_heads, export_command
from orchestrator.console.run_view import run_view
from orchestrator.leaderboard.board import build_boards
from orchestrator.leaderboard.entries import Board
from orchestrator.leaderboard.run_records import read_run_records
from orchestrator.leaderboard.texts import verdict
from orchestrator.ledger.tables import Ledger
from tests.orchestrator.leaderboard.synthetic import Run, write_run


def boards_of(ledger: Ledger) -> tuple[Board, ...]:
    return build_boards(read_run_records([ledger]))


def text_of(*views: object) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*views)
    return console.export_text()


def test_the_head_has_the_board_s_rows_in_80_columns_and_its_sentence(tmp_path: Path) -> None:
    boards = boards_of(write_run(tmp_path, Run(seeds=(1, 2, 3, 4, 5))))
    text = text_of(*board_heads(boards))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert [row[1] for row in rows] == [row.method for row in boards[0].rows]
    assert [row[3] == "0" for row in rows] == [row.method == "student" for row in boards[0].rows]
    assert " ".join(text.split()).endswith(verdict(boards[0]))


def test_a_long_board_is_cut_and_says_so(tmp_path: Path) -> None:
    gains = {"student": 0.0, **{f"m{i}": i / 1000 for i in range(ROWS + 1)}}
    text = text_of(*board_heads(boards_of(write_run(tmp_path, Run(gains=gains)))))
    assert "2 more on the page" in text


def test_a_board_without_a_score_has_no_head_and_nothing_to_export(tmp_path: Path) -> None:
    boards = boards_of(write_run(tmp_path, Run(searched_only=frozenset({"student", "kd", "cwd"}))))
    assert board_heads(boards) == []
    assert export_command("runs/x", boards) is None


@pytest.mark.parametrize(("pairs", "chosen"), [(("a_to_b", "c_to_d"), " --pair a_to_b"), (("a_to_b",), "")])
def test_the_next_command_names_a_pair_where_there_are_several(
    tmp_path: Path, pairs: tuple[str, ...], chosen: str
) -> None:
    boards = boards_of(write_run(tmp_path, Run(pairs=pairs)))
    assert export_command("runs/x", boards) == f"python -m distill.export runs/x{chosen} --output my-model"


def test_a_run_shows_its_result_and_where_the_page_is(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, Run())
    ledger.write_bytes("leaderboard/leaderboard.html", b"")
    text = text_of(run_view(ledger))
    assert "gain over the student" in text
    assert "".join(text.split()).endswith(f"leaderboard:{tmp_path}/leaderboard/leaderboard.html")
