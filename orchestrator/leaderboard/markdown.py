"""LEADERBOARD.md: the boards as Markdown tables, with explanations."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from distill.errors import printable
from orchestrator.leaderboard.comparison_tables import differences_table, side_by_side
from orchestrator.leaderboard.entries import Board
from orchestrator.leaderboard.text_tables import (
    TextTable,
    cells_table,
    class_table,
    costs_table,
    methods_table,
    missing_table,
    pairs_table,
    parameters_table,
    published_table,
)
from orchestrator.leaderboard.texts import (
    HOW_TO_READ,
    board_title,
    conditions,
    evidence_note,
    legend,
    protocol_line,
    resolution,
    verdict,
)


def leaderboard_markdown(boards: Sequence[Board], command: Sequence[str]) -> str:
    """The whole page; `command` is the command that makes it."""
    lines = ["# Leaderboard"]
    if not boards:
        lines += ["", "No trial of a method is recorded yet."]
    for board in boards:
        lines += ["", *_board(board, several=len(boards) > 1)]
    for title, table in side_by_side(boards):
        lines += ["", f"## {escaped(title)}", "", *_table(table), "", table.note]
    if boards:
        lines += ["", "## How to read this", "", *(f"- {fact}" for fact in HOW_TO_READ)]
    lines += [
        "",
        "## Reproduce",
        "",
        "This page, typed in its folder:",
        "",
        *code_block(shlex.join(command), "sh"),
    ]
    for run_command in dict.fromkeys(command for board in boards for command in board.commands if command):
        lines += ["", "The runs behind it:", "", *code_block(run_command, "sh")]
    return "\n".join(lines) + "\n"


def _board(board: Board, several: bool) -> Iterable[str]:
    yield f"## {escaped(board_title(board, several))}"
    yield from ("", escaped(protocol_line(board)), "", f"**{escaped(verdict(board))}**")
    for sentence in filter(None, (conditions(board), resolution(board))):
        yield from ("", escaped(sentence))
    for note in board.notes:
        yield from ("", f"> {escaped(note)}")
    yield from ("", "### Pairs", "", *_noted(pairs_table(board)))
    yield from ("", "### Methods", "", *_table(methods_table(board)), "", legend(board))
    yield from ("", "### Evidence and cost", "", *_table(costs_table(board)), "", evidence_note(board))
    differences = differences_table(board)
    if differences.rows:
        yield from ("", "### Differences of any two methods", "", *_noted(differences))
    yield from ("", "### Gain on each pair", "", *_noted(cells_table(board)))
    yield from ("", "### Hyper-parameters of the final runs", "")
    yield from _table(parameters_table(board)) or ["No final run has hyper-parameters."]
    for pair in board.pairs:
        classes = class_table(board, pair)
        if classes.rows:
            yield from ("", f"### IoU by class: {escaped(pair.short)}", "", *_table(classes))
        if classes.note:
            yield from ("", classes.note)
    published = published_table(board)
    if published.rows:
        yield from ("", "### Published numbers for these pairs", "", *_table(published))
        yield from ("", "Other people's recipes and code: beside ours, never ranked with ours.")
    yield from ("", "### Missing entries", "")
    yield from _table(missing_table(board)) or ["None: every planned final run has a score of its own."]


def _noted(table: TextTable) -> Iterable[str]:
    """A table, and its note below it."""
    yield from _table(table)
    if table.note:
        yield from ("", escaped(table.note))


def _table(table: TextTable) -> list[str]:
    if not table.rows:
        return []
    lines = [
        [escaped(cell) for cell in table.header],
        ["---"] * len(table.header),
        *([escaped(cell) for cell in row] for row in table.rows),
    ]
    return ["| " + " | ".join(line) + " |" for line in lines]


def escaped(value: str) -> str:
    """Text for a table cell or paragraph: without line breaks, Markdown markup and terminal control characters."""
    cleaned = " ".join(printable(value).split())
    for character in "\\|<>`*":
        cleaned = cleaned.replace(character, "\\" + character)
    return cleaned.replace("](", "]\\(")


def code_span(value: str) -> str:
    """Text as inline code; backticks are replaced."""
    return "`" + " ".join(printable(value).split()).replace("`", "'") + "`"


def code_block(text: str, language: str) -> list[str]:
    """Text as lines of a code block; fences inside are replaced."""
    return [f"```{language}", printable(text).replace("```", "'''"), "```"]
