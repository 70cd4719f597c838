"""The tables of a run folder, which may come from anybody: its readers show them, or name the file and leave with 2."""

from __future__ import annotations

import datetime
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from orchestrator import show
from orchestrator.leaderboard import __main__ as leaderboard
from orchestrator.ledger.schema import TABLES, arrow_type
from orchestrator.ledger.tables import Ledger
from tests.fuzz.fuzzing import answers, damaged, exits, fingerprint, fuzz, text

MOMENT = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
ROWS: dict[str, list[dict[str, Any]]] = {
    "trials": [
        {
            "trial_id": f"{phase}{method}{seed}", "attempt": 1, "study_id": f"p.{method}", "cohort_id": "c", "wave": 0,
            "phase": phase, "status": "failed" if seed == 3 else "ok", "run_name": "r", "dataset": "d",
            "protocol": "clean", "pair": "p", "teacher": "t", "teacher_id": "teacher", "student": "s", "method": method,
            "method_family": "logits", "seed": seed, "stream_seed": seed, "recipe_hash": "h", "params": {"kd_weight": 1.5},
            "steps_planned": 9, "steps_done": 9, "tune_miou": 0.5, "test_miou": 0.4 if phase == "final" else None,
            "student_seconds": 1.0, "shared_seconds": 1.0, "teacher_seconds": 1.0, "gpu_seconds": 2.0, "wall_seconds": 3.0,
            "peak_memory_bytes": 9, "loss_final": 1.0, "error": "T\nx" if seed == 3 else None, "error_step": 3,
            "world_size": 1, "device": "cpu", "started_at": MOMENT, "finished_at": MOMENT, "provenance_id": "v",
            "checkpoint": "models/x.safetensors",
        }
        for phase in ("search", "final")
        for method in ("student", "kd")
        for seed in (1, 2, 3)
    ],
    "curves": [
        {
            "trial_id": "finalkd1", "step": step, "phase": "final", "tune_miou": 0.1, "lr": 0.1, "loss_total": 2.0,
            "terms_raw": {"task": 1.0}, "terms_weighted": {"task": 1.0}, "student_seconds": 1.0, "shared_seconds": 1.0,
        }
        for step in (1, 2)
    ],
    "counts": [
        {
            "trial_id": f"final{method}{seed}", "split": "test", "image": image, "class": label, "tp": 3, "fp": 1, "fn": 2,
            "class_name": f"class {label}",
        }
        for method in ("student", "kd")
        for seed in (1, 2)
        for image in (0, 1)
        for label in (0, 1)
    ],
    "models": [
        {
            "name": "s", "options": {}, "num_classes": 2, "params": 9, "flops": 9, "height": 8, "width": 8,
            "latency_ms": 1.0, "device": "cpu",
        }
    ],
    "provenance": [
        {
            "provenance_id": "v", "commit": "c0", "dirty": False, "config_yaml": "name: x", "config_hash": "h",
            "plan_hash": "h", "versions": {"python": "3"}, "hardware": {"cpus": 2}, "teacher_sha256": {"t": "0"},
            "command": "python -m orchestrator.sweep", "created_at": MOMENT, "schema_version": 1,
        }
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tables") / "run"
    for table, rows in ROWS.items():
        Ledger(root).append(table, rows, "sound")
    return root


def readers(folder: Path) -> None:
    """Every command that reads a run's tables answers with 0 or 2, and changes nothing in the run."""
    before = fingerprint(folder)
    board = folder.parent / "board"
    for program, main, arguments in (
        ("show", show.main, [str(folder)]),
        ("show TRIAL", show.main, [str(folder), "finalkd1"]),
        ("leaderboard", leaderboard.main, [str(folder), "--output", str(board)]),
    ):
        sys.argv = [program, *arguments]
        exits(f"tables: {program}", main)
    assert fingerprint(folder) == before
    shutil.rmtree(board, ignore_errors=True)


def read_with(folder: Path, table: str, data: bytes) -> None:
    path = folder / "tables" / table / "sound.parquet"
    sound = path.read_bytes()
    path.write_bytes(data)
    try:
        answers("tables: ledger", lambda: Ledger(folder).read(table))
        readers(folder)
    finally:
        path.write_bytes(sound)


def test_the_run_that_is_damaged_is_sound(folder: Path) -> None:
    before = [fingerprint(folder)]
    for program, main, arguments in (
        ("show", show.main, [str(folder), "finalkd1"]),
        ("leaderboard", leaderboard.main, [str(folder), "--output", str(folder.parent / "board")]),
    ):
        sys.argv = [program, *arguments]
        assert exits(program, main) == 0
    assert before == [fingerprint(folder)]


@st.composite
def damaged_files(draw: st.DrawFn) -> tuple[str, bytes]:
    table = draw(st.sampled_from(sorted(TABLES)))
    found = pa.Table.from_pylist([])
    schema = TABLES[table]
    columns = {
        c.name: pa.array([plain(c.type, row.get(c.name)) for row in ROWS[table]], arrow_type(c.type))
        for c in schema.columns
    }
    found = pa.table(columns).replace_schema_metadata({"ledger.table": table, "ledger.schema_version": "1"})
    buffer = io.BytesIO()
    pq.write_table(found, buffer, compression=draw(st.sampled_from(("zstd", "none", "snappy"))))
    return table, draw(damaged(buffer.getvalue()))


def plain(kind: str, value: Any) -> Any:
    if kind == "map<string, json>":
        return [(name, json.dumps(item)) for name, item in (value or {}).items()]
    if kind.startswith("map<"):
        return list((value or {}).items())
    return json.dumps(value) if kind == "json" else value


@fuzz(40, found=damaged_files())
def test_a_damaged_file_of_a_table_is_shown_or_refused_by_name(
    folder: Path, found: tuple[str, bytes]
) -> None:
    read_with(folder, *found)


odd_text = st.one_of(
    text,
    st.sampled_from(
        [
            "",
            "\x1b[31m",
            "../../x",
            "/etc/passwd",
            "a\0b",
            "=1+1",
            "|`<b>\n",
            "</script>",
            "x" * 3000,
            "[bold]",
            "[/x]",
        ]
    ),
)
odd_json = st.one_of(
    odd_text,
    st.sampled_from(["", "{", "NaN", "1e999", "[" * 2000, "null", "[1]", '{"a": 1}', '"x"', "9" * 5000]),
)
odd_real = st.one_of(st.floats(), st.sampled_from([0.0, 0.5, 1.0, -1.0, 2.0, 1e300]))
odd_int = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, 2, -1, 254, 255, 2**62]))
odd: dict[str, st.SearchStrategy[Any]] = {
    "string": odd_text,
    "int64": odd_int,
    "float64": odd_real,
    "bool": st.booleans(),
    "timestamp": odd_int,
    "json": odd_json,
    "map<string, string>": st.lists(st.tuples(odd_text, st.one_of(st.none(), odd_text)), max_size=3),
    "map<string, float64>": st.lists(st.tuples(odd_text, st.one_of(st.none(), odd_real)), max_size=3),
    "map<string, json>": st.lists(st.tuples(odd_text, st.one_of(st.none(), odd_json)), max_size=3),
}
OTHER_TYPES = (pa.int32(), pa.float32(), pa.string(), pa.binary(), pa.bool_(), pa.timestamp("ns"), pa.date32(), pa.null(),
               pa.decimal128(38, 2), pa.large_string(), pa.list_(pa.int64()), pa.uint64())  # fmt: skip


@st.composite
def odd_tables(draw: st.DrawFn) -> tuple[str, bytes]:
    """Sound Parquet files of wrong values, wrong types, missing and unknown columns."""
    table = draw(st.sampled_from(sorted(TABLES)))
    schema, rows = TABLES[table], ROWS[table]
    columns: dict[str, pa.Array] = {}
    touched = draw(
        st.sets(st.sampled_from([column.name for column in schema.columns]), min_size=1, max_size=3)
    )
    for column in schema.columns:
        values = [plain(column.type, row.get(column.name)) for row in rows]
        kind = (
            draw(st.sampled_from(("value", "value", "value", "null", "type", "missing", "bytes")))
            if column.name in touched
            else ""
        )
        if kind in ("value", "null"):
            at = draw(st.integers(0, len(values) - 1))
            values[at] = None if kind == "null" else draw(odd[column.type])
        if kind == "missing":
            continue
        array = pa.array(values, arrow_type(column.type))
        if kind == "type":
            wrong = draw(st.sampled_from(OTHER_TYPES))
            try:
                array = array.cast(wrong)
            except pa.ArrowException:
                array = pa.nulls(len(values), wrong)
        if kind == "bytes" and column.type == "string":
            array = pa.array([draw(st.binary(max_size=4))] * len(values), pa.binary()).view(pa.string())
        columns[column.name] = array
    if draw(st.booleans()) and draw(st.booleans()):
        columns[draw(st.one_of(odd_text, odd_text.map("param_".__add__)))] = pa.nulls(len(rows), pa.string())
    metadata = {
        "ledger.table": table,
        "ledger.schema_version": draw(st.sampled_from(("1", "1", "1", "x", "99", "-1", "9" * 5000))),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), buffer)
    return table, buffer.getvalue()


@fuzz(70, found=odd_tables())
def test_a_table_of_odd_values_is_shown_or_refused_by_name(folder: Path, found: tuple[str, bytes]) -> None:
    read_with(folder, *found)
