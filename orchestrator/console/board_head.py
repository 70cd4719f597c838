"""The result of a run on a terminal: the first rows of each leaderboard, and its sentence."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from distill.errors import printable
from orchestrator.leaderboard.entries import Board
from orchestrator.leaderboard.text_tables import methods_table
from orchestrator.leaderboard.texts import board_title, verdict

ROWS = 12
"""Maximum number of methods that are shown of a board."""
_COLUMNS = {
    "rank": "rank",
    "method": "method",
    "mIoU": "test mIoU",
    "gain over the student": "gain over the student",
    "training cost": "cost",
}
"""Columns of the board's main table that are shown, with their headings here."""


def board_heads(boards: Sequence[Board]) -> list[RenderableType]:
    """Rank, method, mIoU, gain and cost of each board's first methods, and what can be said of them.

    A board without any score gives nothing.
    """
    several = len(boards) > 1
    return [_head(board, several) for board in boards if any(row.miou is not None for row in board.rows)]


def _head(board: Board, several: bool) -> RenderableType:
    table = Table(title=Text(printable(board_title(board, several)), style="bold"), title_justify="left")
    for heading in _COLUMNS.values():
        table.add_column(heading, justify="left" if heading == "method" else "right")
    whole = methods_table(board)
    chosen = [whole.header.index(name) for name in _COLUMNS]
    for row in whole.rows[:ROWS]:
        table.add_row(*(Text(printable(row[column])) for column in chosen))
    more = len(whole.rows) - ROWS
    note = [Text(f"{more} more on the page")] if more > 0 else []
    return Padding(Group(table, *note, Text(printable(verdict(board)))), (1, 0, 0, 0))


def export_command(run: str, boards: Sequence[Board]) -> str | None:
    """The command that exports the best student of the first pair; None if no pair has a score."""
    for board in boards:
        for pair in board.pairs:
            if any(board.cells[pair.pair, row.method].miou is not None for row in board.rows):
                chosen = [] if len(board.pairs) == 1 and len(boards) == 1 else ["--pair", pair.pair]
                return shlex.join(["python", "-m", "distill.export", run, *chosen, "--output", "my-model"])
    return None


def result_console() -> Console:
    """A console on standard output; a file or pipe gets lines that are wide enough for the table."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=100)
