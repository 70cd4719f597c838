"""Writes a leaderboard: the same rows as CSV, JSON and Parquet, and the pages made of them."""

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
from orchestrator.leaderboard.board import build_boards
from orchestrator.leaderboard.cards import card_text
from orchestrator.leaderboard.entries import Board, Row
from orchestrator.leaderboard.html import leaderboard_html
from orchestrator.leaderboard.markdown import leaderboard_markdown
from orchestrator.leaderboard.planned import Spaces
from orchestrator.leaderboard.run_records import RunRecords, gather
from orchestrator.leaderboard.selected_students import STUDENTS, students_bytes, taken_of
from orchestrator.ledger.tables import Ledger

NAME, GALLERY = "LEADERBOARD.md", "gallery.html"
_PER_PAIR = "gain_per_pair"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}


class Written(NamedTuple):
    """Where the page lies, and the boards' rows."""

    path: str
    rows: tuple[Row, ...]


def write_leaderboard(
    ledgers: Sequence[Ledger],
    output: Ledger | str | os.PathLike[str] | None = None,
    spaces: Spaces | None = None,
) -> Written:
    """Computes the boards of one or more runs and writes them; equal ledgers give equal bytes.

    Args:
        ledgers: the runs; a run that is still going is fine.
        output: the folder to write into, on any file system; by default `leaderboard/` in the only run.
        spaces: method → parameter → (low, high, logarithmic), in place of those in the runs' configs.

    The page links the gallery that lies in the folder already (`orchestrator.gallery`).

    Raises:
        UsageError: no run, a run without tables, several runs and no output, or a table that cannot be read.
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
    evidence = gather(ledgers)
    boards = build_boards(evidence, spaces)
    records = table_records(boards)
    target.write_bytes("leaderboard.csv", csv_bytes(records))
    target.write_bytes("leaderboard.json", json_bytes(records))
    target.write_bytes("leaderboard.parquet", parquet_bytes(records))
    command = ["python", "-m", "orchestrator.leaderboard", *(_as_typed(ledger) for ledger in ledgers)]
    taken = [student for board in boards for student in taken_of(board, evidence)]
    best = [student for student in taken if student.best]
    target.write_bytes(STUDENTS, students_bytes(taken, evidence))
    gallery = target.exists(GALLERY)
    page = leaderboard_html(boards, evidence, records, best, shlex.join(command), with_gallery=gallery)
    target.write_bytes("leaderboard.html", page.encode())
    target.write_bytes(NAME, leaderboard_markdown(boards, command).encode())
    cards = {s.card: card_text(s.board, evidence, s.pair, s.cell, s.trial).encode() for s in best}
    _write_cards(target, cards, evidence)
    return Written(target.place(NAME), tuple(row for board in boards for row in board.rows))


def _write_cards(target: Ledger, cards: Mapping[str, bytes], evidence: RunRecords) -> None:
    """Writes the cards, and takes away those that this run's trials had on an earlier board."""
    for path, card in cards.items():
        target.write_bytes(path, card)
    ours = {f"cards/{trial.trial_id}.md" for trial in evidence.trials}
    for path in target.list("cards"):
        if path in ours - cards.keys():
            target.delete(path)


def table_records(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """The rows of all boards as flat records with equal columns; the gain on each pair is `gain[<pair>]`."""
    pairs = sorted({pair for board in boards for row in board.rows for pair in row.gain_per_pair})
    records = []
    for board in boards:
        for row in board.rows:
            record: dict[str, Any] = {}
            for name in Row.__dataclass_fields__:
                if name == _PER_PAIR:
                    record |= {f"gain[{pair}]": _rounded(row.gain_per_pair.get(pair)) for pair in pairs}
                else:
                    record[name] = _rounded(getattr(row, name))
            records.append(record)
    return records


def csv_bytes(records: Sequence[dict[str, Any]]) -> bytes:
    """The records as CSV with a header; an empty field is "the data cannot say"."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=_columns(records), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in record.items()} for record in records)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """A cell that a spreadsheet shows: text that it would compute as a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def json_bytes(records: Sequence[dict[str, Any]]) -> bytes:
    """The records as a JSON list of objects."""
    return (json.dumps(list(records), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parquet_bytes(records: Sequence[dict[str, Any]]) -> bytes:
    """The records as one Parquet file."""
    declared = {name: str(field.type).split(" ")[0] for name, field in Row.__dataclass_fields__.items()}
    kinds = {name: _TYPES[kind] for name, kind in declared.items() if name != _PER_PAIR}
    schema = pa.schema((name, kinds.get(name, pa.float64())) for name in _columns(records))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(records), schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _as_typed(ledger: Ledger) -> str:
    """A local run by its folder's name, so that a page neither tells nor depends on where it was made."""
    place = ledger.place()
    return place if "://" in place else place.rsplit("/", 1)[-1]


def _columns(records: Sequence[dict[str, Any]]) -> list[str]:
    return list(records[0]) if records else [name for name in Row.__dataclass_fields__ if name != _PER_PAIR]


def _rounded(value: Any) -> Any:
    """Ten significant digits: more would differ between machines that sum in another order."""
    return float(f"{value:.10g}") if isinstance(value, float) else value
