from __future__ import annotations

import datetime
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from distill.errors import UsageError
from orchestrator.ledger.row_builders import count_rows
from orchestrator.ledger.schema import SCHEMA_VERSION, TABLES, arrow_schema, markdown
from orchestrator.ledger.tables import Ledger
from tests import ROOT


def trial(trial_id: str, **columns: object) -> dict[str, object]:
    return {"trial_id": trial_id, "attempt": 1, "phase": "search", "status": "ok", **columns}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "run")


def test_a_row_comes_back_as_it_was_written(ledger: Ledger) -> None:
    started = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    row = trial("t", seed=7, tune_miou=0.1 + 0.2, error="a\nb|c", started_at=started, params={"lr": 0.1})
    ledger.append("trials", [row], "t-1")
    (found,) = ledger.read("trials").to_pylist()
    assert found["params"] == [("lr", "0.1")]
    assert {**found, "params": row["params"]}.items() >= row.items()
    assert found["test_miou"] is None


def test_a_table_nobody_wrote_to_is_empty_and_has_its_columns(ledger: Ledger) -> None:
    for name, table in TABLES.items():
        assert ledger.read(name).schema.equals(arrow_schema(table))
        assert ledger.read(name).num_rows == 0
        ledger.compact(name)
    assert ledger.list() == []


def test_hyper_parameters_become_columns_numbers_as_float64_and_all_else_as_text(ledger: Ledger) -> None:
    params = {"t": 4, "w": np.float32(0.5), "tap": "stage4", "relu": True, "taps": [1, 2], "none": None}
    ledger.append("trials", [trial("a", params=params)], "a")
    ledger.append("trials", [trial("b", params={"other": 1.0})], "b")
    ledger.append("trials", [trial("c", params={"t": "auto"})], "c")
    table = ledger.read("trials")
    row = table.to_pylist()[0]
    assert table.schema.field("param_w").type == pa.float64()
    assert (row["param_w"], row["param_tap"], row["param_relu"], row["param_taps"]) == (
        0.5,
        "stage4",
        "true",
        "[1, 2]",
    )
    assert "param_none" not in table.column_names
    assert table.column("param_other").to_pylist() == [None, 1.0, None]
    assert table.column("param_t").to_pylist() == ["4", None, "auto"]
    assert {name: json.loads(value) for name, value in row["params"]} == {**params, "w": 0.5}
    assert ledger.read("trials", ["param_w", "seed", "param_nowhere"]).column_names == [
        "param_w",
        "seed",
        "param_nowhere",
    ]


def test_every_kind_of_row_can_be_written_and_read(ledger: Ledger) -> None:
    ledger.append("curves", [{"trial_id": "t", "step": 5, "terms_raw": {"kd": 1, "task": 2.5}}], "t-5")
    ledger.append("models", [_model(options={"dropout": 0.1, "a": [1]})], "m")
    ledger.append("provenance", [{"provenance_id": "p", "versions": {"torch": "2"}, "dirty": True}], "p")
    assert ledger.read("curves").to_pylist()[0]["terms_raw"] == [("kd", 1.0), ("task", 2.5)]
    assert ledger.read("models").to_pylist()[0]["options"] == '{"a": [1], "dropout": 0.1}'
    assert ledger.read("provenance").to_pylist()[0]["dirty"] is True


def test_the_same_append_twice_adds_one_row_before_and_after_compaction(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.append("trials", [trial("a", seed=1)], "a-1")
    ledger.append("trials", [trial("b")], "b-1")
    ledger.compact("trials")
    ledger.append("trials", [trial("a", seed=2)], "a-1")
    assert ledger.read("trials", ["trial_id", "seed"]).to_pylist() == [
        {"trial_id": "a", "seed": 1},
        {"trial_id": "b", "seed": None},
    ]
    assert len(ledger.list("tables/trials")) == 1


def test_a_file_of_an_older_schema_reads_with_its_missing_columns_null(ledger: Ledger) -> None:
    old = pa.table({"trial_id": ["a"], "attempt": pa.array([1], pa.int32())})
    ledger.write_bytes("tables/trials/old.parquet", _parquet(old.replace_schema_metadata({})))
    ledger.append("trials", [trial("b", seed=3)], "b")
    table = ledger.read("trials")
    assert table.select(["trial_id", "attempt", "seed"]).to_pylist() == [
        {"trial_id": "a", "attempt": 1, "seed": None},
        {"trial_id": "b", "attempt": 1, "seed": 3},
    ]
    ledger.compact("trials")
    assert ledger.read("trials").equals(table)


def test_a_file_of_a_newer_schema_is_refused_with_the_remedy(ledger: Ledger) -> None:
    newer = pa.table({"trial_id": ["a"], "attempt": [1]})
    metadata = {"ledger.schema_version": str(SCHEMA_VERSION + 1)}
    ledger.write_bytes("tables/trials/new.parquet", _parquet(newer.replace_schema_metadata(metadata)))
    with pytest.raises(UsageError, match=r"new\.parquet has schema version \d+, .*update the program"):
        ledger.read("trials")


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_file_is_named_with_the_remedy(ledger: Ledger, damage: str) -> None:
    ledger.append("trials", [trial("a")], "good")
    whole = ledger.read_bytes("tables/trials/good.parquet")
    data = {"cut": whole[: len(whole) // 2], "text": b"not parquet at all", "empty": b""}[damage]
    ledger.write_bytes("tables/trials/bad.parquet", data)
    with pytest.raises(UsageError, match=r"tables/trials/bad\.parquet cannot be read.*moves it away"):
        ledger.read("trials")


@pytest.mark.parametrize(
    "stranger", [pa.table({"x": [1]}), pa.table({"trial_id": ["b"], "attempt": [1], "seed": ["one"]})]
)
def test_a_parquet_file_that_is_not_ours_is_named_with_the_remedy(ledger: Ledger, stranger: pa.Table) -> None:
    ledger.append("trials", [trial("a", seed=1)], "good")
    ledger.write_bytes("tables/trials/stranger.parquet", _parquet(stranger))
    with pytest.raises(
        UsageError, match=r"tables/trials/stranger\.parquet is no file of this table: .*; move it away"
    ):
        ledger.read("trials")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"trial_id": "a"}, r"attempt of table trials is null .* part of the key"),
        ({"trial_id": "a", "attempt": "x"}, r"attempt of table trials is 'x', must be int64"),
        (
            {"trial_id": "a", "attempt": 1, "phase": "test"},
            r"phase .* is 'test', must be one of teacher, search",
        ),
        (
            {"trial_id": "a", "attempt": 1, "tune_mio": 0.5},
            r"'tune_mio' is not known; did you mean 'tune_miou'",
        ),
    ],
)
def test_a_row_that_does_not_fit_says_value_rule_and_remedy(
    ledger: Ledger, row: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        ledger.append("trials", [row], "a")
    assert ledger.list() == []


@pytest.mark.parametrize("name", ["", ".hidden", "_x", "a/b", "compacted-1", "ä"])
def test_a_name_that_readers_would_ignore_or_that_leaves_the_folder_is_refused(
    ledger: Ledger, name: str
) -> None:
    with pytest.raises(UsageError, match="must be a file stem"):
        ledger.append("trials", [trial("a")], name)


def test_an_unknown_table_names_the_nearest(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="did you mean 'curves'"):
        ledger.read("curve")


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", ""])
def test_small_files_stay_inside_the_run(ledger: Ledger, path: str) -> None:
    for use in (ledger.read_bytes, ledger.exists, ledger.delete):
        with pytest.raises(UsageError, match="must be relative to the run"):
            use(path)


def test_small_files_can_be_written_read_listed_and_deleted(ledger: Ledger) -> None:
    ledger.write_bytes("cohorts/a/state.bin", b"1")
    ledger.write_bytes("cohorts/a/state.bin", b"22")
    ledger.write_bytes("cohorts/b", b"")
    assert ledger.read_bytes("cohorts/a/state.bin") == b"22"
    assert ledger.list("cohorts") == ["cohorts/a/state.bin", "cohorts/b"]
    assert ledger.exists("cohorts/a")
    assert ledger.exists("cohorts/b")
    assert not ledger.exists("cohorts/c")
    ledger.delete("cohorts/a")
    ledger.delete("cohorts/a")
    ledger.delete("cohorts/b")
    assert ledger.list() == []
    with pytest.raises(FileNotFoundError):
        ledger.read_bytes("cohorts/b")


def test_a_write_that_fails_leaves_the_old_contents_and_no_litter(ledger: Ledger, tmp_path: Path) -> None:
    ledger.write_bytes("a", b"old")
    with pytest.raises(TypeError):
        ledger.write_bytes("a", "text")  # type: ignore[arg-type]
    assert ledger.read_bytes("a") == b"old"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a"]


def test_a_killed_writer_leaves_only_whole_files(tmp_path: Path) -> None:
    code = (
        "import sys; from orchestrator.ledger.tables import Ledger\n"
        "ledger = Ledger(sys.argv[1])\n"
        "for i in range(10**6):\n"
        "    rows = [{'trial_id': f'{i}', 'step': s, 'loss_total': s * 0.1} for s in range(300)]\n"
        "    ledger.append('curves', rows, f'c{i}')\n"
        "    print(i, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for file in range(3):
            assert writer.stdout.readline() == b"%d\n" % file
        writer.kill()
    sizes = pd.Series(Ledger(tmp_path).read("curves", ["trial_id"]).column(0).to_pylist()).value_counts()
    assert len(sizes) >= 3
    assert set(sizes) == {300}


def test_a_relative_root_is_made_absolute_and_a_ledger_survives_pickling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = Ledger("run")
    ledger.append("trials", [trial("a")], "a")
    copy = pickle.loads(pickle.dumps(ledger))
    monkeypatch.chdir("/")
    assert copy.root == str(tmp_path / "run")
    assert copy.read("trials").num_rows == ledger.read("trials").num_rows == 1
    assert Ledger((tmp_path / "run").as_uri()).read("trials").num_rows == 1


def test_a_place_is_told_without_credentials_and_a_folder_below_keeps_the_options() -> None:
    ledger = Ledger("s3://key:secret@bucket/run?region=x&scheme=http")
    assert ledger.place("plan.json") == "s3://bucket/run/plan.json"
    assert "secret" not in repr(ledger)
    assert ledger.below("leaderboard").root == "s3://key:secret@bucket/run/leaderboard?region=x&scheme=http"
    assert Ledger("/a/run?").below("b").place("c") == "/a/run?/b/c"


def test_an_unknown_kind_of_root_says_which_kinds_there_are() -> None:
    with pytest.raises(UsageError, match="s3://bucket/folder"):
        Ledger("ftp://host/run").read("trials")


def test_pandas_and_arrow_data_sets_read_a_compacted_folder_as_it_stands(
    ledger: Ledger, tmp_path: Path
) -> None:
    for i in range(3):
        ledger.append("trials", [trial(f"t{i}", params={f"p{i}": i}, versions_unused=None)][:0], "none")
        ledger.append("trials", [trial(f"t{i}", params={f"p{i}": i}, seed=i)], f"t{i}")
    folder = tmp_path / "run" / "tables" / "trials"
    assert sorted(pd.read_parquet(folder)["trial_id"]) == ["t0", "t1", "t2"]
    ledger.compact("trials")
    frame = pd.read_parquet(folder)
    assert frame["param_p2"].tolist()[2] == 2.0
    assert frame["seed"].tolist() == [0, 1, 2]
    assert pyarrow.dataset.dataset(folder).to_table().num_rows == 3


def test_counts_leave_out_zero_rows_but_keep_every_image_and_every_class() -> None:
    tp = np.array([[3, 0], [0, 0], [5, 0]])
    zero = np.zeros_like(tp)
    rows = count_rows("t", "test", [10, 11, 12], tp, zero, zero, ["road", "sky"]).to_pylist()
    assert [(row["image"], row["class"], row["tp"], row["class_name"]) for row in rows] == [
        (10, 0, 3, "road"),
        (10, 1, 0, "sky"),
        (11, 0, 0, "road"),
        (12, 0, 5, "road"),
    ]
    assert count_rows("t", "test", [], zero[:0], zero[:0], zero[:0]).num_rows == 0
    with pytest.raises(UsageError, match="must be"):
        count_rows("t", "test", [10], tp, zero, zero)


def test_every_table_and_column_is_documented() -> None:
    page = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    sections = {part.partition("\n")[0]: part for part in page.split("\n## ")}
    for table in TABLES.values():
        assert set(table.key) <= {column.name for column in table.columns}
        assert all(column.meaning for column in table.columns)
        for column in table.columns:
            row = f"| `{column.name}` | {column.type} | {column.unit} |"
            assert row in sections[table.name], "run: python -m orchestrator.ledger.schema > docs/tables.md"
    assert {*markdown().splitlines()} >= {f"## {name}" for name in TABLES}


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_row_order_in_files_and_compaction_never_change_what_is_read(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = data.draw(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), unique=True, min_size=1))
    rows = [{"trial_id": t, "step": s, "loss_total": s / 7} for t, s in keys]
    shuffled = data.draw(st.permutations(rows))
    cut = data.draw(st.integers(0, len(rows)))
    one, two = (Ledger(tmp_path_factory.mktemp("run")) for _ in range(2))
    one.append("curves", rows, "all")
    two.append("curves", shuffled[:cut], "x")
    two.append("curves", shuffled[cut:], "a")
    assert one.read("curves").equals(two.read("curves"))
    two.compact("curves")
    assert one.read("curves").equals(two.read("curves"))


class LedgerAgainstDictionary(RuleBasedStateMachine):
    """A ledger behaves as a dictionary in which the first row under a key stays."""

    @initialize(folder=st.uuids())
    def begin(self, folder: object) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(self.folder.name)
        self.names: set[int] = set()
        self.rows: dict[tuple[str, int], float] = {}

    @rule(name=st.integers(0, 6), value=st.floats(allow_nan=False), size=st.integers(1, 3))
    def append(self, name: int, value: float, size: int) -> None:
        rows = [{"trial_id": f"t{name}", "step": step, "loss_total": value} for step in range(size)]
        self.ledger.append("curves", rows, f"f{name}")
        if name not in self.names:
            self.names.add(name)
            self.rows.update({(f"t{name}", step): value for step in range(size)})

    @rule()
    def compact(self) -> None:
        self.ledger.compact("curves")
        assert len(self.ledger.list("tables/curves")) <= 1

    @rule()
    def read_from_another_process_s_view(self) -> None:
        self.ledger = Ledger(self.folder.name)

    @invariant()
    def holds_the_same(self) -> None:
        if not hasattr(self, "ledger"):
            return
        found = self.ledger.read("curves", ["trial_id", "step", "loss_total"]).to_pylist()
        assert [((r["trial_id"], r["step"]), r["loss_total"]) for r in found] == sorted(self.rows.items())

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestLedgerAgainstDictionary = LedgerAgainstDictionary.TestCase
TestLedgerAgainstDictionary.settings = settings(max_examples=8, stateful_step_count=10, deadline=None)


def _model(**columns: object) -> dict[str, object]:
    return {"name": "m", "num_classes": 6, "height": 64, "width": 64, "device": "cpu", **columns}


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())
