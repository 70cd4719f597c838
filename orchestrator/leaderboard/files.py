"""Writes a leaderboard: its rows as CSV, JSON and Parquet, and the pages made from them."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from distill.errors import UsageError
from distill.uris import is_uri
from orchestrator.leaderboard.board import build_boards
from orchestrator.leaderboard.cards import card_text
from orchestrator.leaderboard.entries import Board, BoardRow
from orchestrator.leaderboard.html import leaderboard_html
from orchestrator.leaderboard.markdown import leaderboard_markdown
from orchestrator.leaderboard.planned import Spaces
from orchestrator.leaderboard.run_records import RunRecords, read_run_records
from orchestrator.leaderboard.selected_students import STUDENTS, select_students, students_bytes
from orchestrator.leaderboard.training_curves import read_curves
from orchestrator.leaderboard.unfinished import Unfinished
from orchestrator.ledger.run_folder import BOARD_PAGE
from orchestrator.ledger.tables import Ledger

NAME, PAGE, GALLERY = "LEADERBOARD.md", BOARD_PAGE.rpartition("/")[2], "gallery.html"
_PER_PAIR = "gain_per_pair"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}


class Written(NamedTuple):
    """Paths of the Markdown and of the HTML page, and the boards."""

    path: str
    page: str
    boards: tuple[Board, ...]

    @property
    def rows(self) -> tuple[BoardRow, ...]:
        """The rows of all boards."""
        return tuple(row for board in self.boards for row in board.rows)


def write_leaderboard(
    ledgers: Sequence[Ledger],
    output: Ledger | str | os.PathLike[str] | None = None,
    spaces: Spaces | None = None,
    unfinished: Unfinished | None = None,
) -> Written:
    """Compute the boards of one or more runs and write them. Equal ledgers give equal bytes.

    If the output folder already has a gallery (`orchestrator.gallery`), the page links it.

    Args:
        ledgers: the runs; they need not be finished.
        output: the folder to write into, on any file system; by default `leaderboard/` in the only run.
        unfinished: what the page says of a run that is not finished.
        spaces: method → parameter → (low, high, logarithmic); replaces the search spaces of the runs' configs.

    Raises:
        UsageError: there is no run, a run has no tables, several runs are given without an output, or a table cannot
            be read.
    """
    if not ledgers:
        raise UsageError("no run is given, name at least one run's folder")
    for ledger in ledgers:
        if not ledger.exists("tables"):
            raise UsageError(f"{ledger.place()} holds no tables; give the folder of a run (its --output)")
    if output is None:
        if len(ledgers) > 1:
            raise UsageError(f"{len(ledgers)} runs and no output folder; say where to write with --output")
        output = ledgers[0].below("leaderboard")
    target = output if isinstance(output, Ledger) else Ledger(output)
    records = read_run_records(ledgers)
    boards = build_boards(records, spaces)
    rows = table_rows(boards)
    target.write_bytes("leaderboard.csv", csv_bytes(rows))
    target.write_bytes("leaderboard.json", json_bytes(rows))
    target.write_bytes("leaderboard.parquet", parquet_bytes(rows))
    command = _command(ledgers, target)
    selected = [student for board in boards for student in select_students(board, records)]
    best = [student for student in selected if student.best]
    target.write_bytes(STUDENTS, students_bytes(selected, records))
    gallery = target.exists(GALLERY)
    page = leaderboard_html(
        boards,
        records,
        rows,
        best,
        shlex.join(command),
        curves=read_curves(ledgers, records),
        unfinished=unfinished,
        with_gallery=gallery,
    )
    target.write_bytes(PAGE, page.encode())
    target.write_bytes(NAME, leaderboard_markdown(boards, command).encode())
    cards = {s.card: card_text(s.board, records, s.pair, s.cell, s.trial).encode() for s in best}
    _write_cards(target, cards, records)
    return Written(target.place(NAME), target.place(PAGE), boards)


def _write_cards(target: Ledger, cards: Mapping[str, bytes], records: RunRecords) -> None:
    """Write the cards, and delete the cards of these runs' trials that an earlier board had."""
    for path, card in cards.items():
        target.write_bytes(path, card)
    known = {f"cards/{trial.trial_id}.md" for trial in records.trials}
    for path in target.list("cards"):
        if path in known - cards.keys():
            target.delete(path)


def table_rows(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """The rows of all boards as flat mappings with equal columns; the gain on a pair is `gain[<pair>]`."""
    pairs = sorted({pair for board in boards for row in board.rows for pair in row.gain_per_pair})
    rows: list[dict[str, Any]] = []
    for board in boards:
        for row in board.rows:
            record: dict[str, Any] = {}
            for name in BoardRow.__dataclass_fields__:
                if name == _PER_PAIR:
                    record |= {f"gain[{pair}]": _rounded(row.gain_per_pair.get(pair)) for pair in pairs}
                else:
                    record[name] = _rounded(getattr(row, name))
            rows.append(record)
    return rows


def csv_bytes(rows: Sequence[dict[str, Any]]) -> bytes:
    """The rows as CSV with a header; an empty field means that the value is unknown."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=_columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in record.items()} for record in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """The value of a CSV cell. An apostrophe is put before text that a spreadsheet would run as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def json_bytes(rows: Sequence[dict[str, Any]]) -> bytes:
    """The rows as a JSON list of objects."""
    return (json.dumps(list(rows), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parquet_bytes(rows: Sequence[dict[str, Any]]) -> bytes:
    """The rows as one Parquet file."""
    declared = {name: str(field.type).split(" ")[0] for name, field in BoardRow.__dataclass_fields__.items()}
    kinds = {name: _TYPES[kind] for name, kind in declared.items() if name != _PER_PAIR}
    schema = pa.schema((name, kinds.get(name, pa.float64())) for name in _columns(rows))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _command(ledgers: Sequence[Ledger], target: Ledger) -> list[str]:
    """The command that makes the page. It has local paths relative to the page's folder, to be typed there."""
    runs = [_run_argument(ledger, target) for ledger in ledgers]
    is_default = len(ledgers) == 1 and target.root == ledgers[0].below("leaderboard").root
    output = [] if is_default else ["--output", target.place() if is_uri(target.root) else "."]
    return ["python", "-m", "orchestrator.leaderboard", *runs, *output]


def _run_argument(ledger: Ledger, target: Ledger) -> str:
    """The run as an argument of the command."""
    if is_uri(ledger.root):
        return ledger.place()
    if is_uri(target.root):
        return ledger.root.rsplit("/", 1)[-1]  # a page elsewhere has no local path
    return os.path.relpath(ledger.root, target.root)


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(rows[0]) if rows else [name for name in BoardRow.__dataclass_fields__ if name != _PER_PAIR]


def _rounded(value: Any) -> Any:
    """Ten significant digits; more would differ between machines that sum in another order."""
    return float(f"{value:.10g}") if isinstance(value, float) else value
