from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest

from orchestrator.ledger import Ledger

FILES, ROWS = 120, 3


def _rows(file: int) -> list[dict[str, object]]:
    return [{"trial_id": f"t{file:04d}", "step": step, "loss_total": float(file)} for step in range(ROWS)]


def _write(root: str, first: int, count: int) -> None:
    for file in range(first, first + count):
        Ledger(root).append("curves", _rows(file), f"t{file:04d}")


def _compact_until(root: str, done: object) -> None:
    while not done.is_set():  # type: ignore[attr-defined]
        Ledger(root).compact("curves")


def test_readers_beside_writers_and_two_compactors_see_every_finished_row_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    done = context.Event()
    root = str(tmp_path)
    half = FILES // 2
    writers = [context.Process(target=_write, args=(root, first, half)) for first in (0, half)]
    compactors = [context.Process(target=_compact_until, args=(root, done)) for _ in range(2)]
    for process in (*writers, *compactors):
        process.start()
    seen: set[str] = set()
    reads = 0
    try:
        while any(writer.is_alive() for writer in writers) or reads < 5:
            rows = Counter(Ledger(root).read("curves", ["trial_id"]).column(0).to_pylist())
            assert set(rows.values()) <= {ROWS}, "part of a file, or a row twice"
            assert seen <= set(rows), "a row seen before is gone"
            seen = set(rows)
            reads += 1
    finally:
        done.set()
        for process in (*writers, *compactors):
            process.join(60)
    assert [process.exitcode for process in (*writers, *compactors)] == [0, 0, 0, 0]
    assert Ledger(root).read("curves").num_rows == FILES * ROWS
    Ledger(root).compact("curves")
    assert len(Ledger(root).list("tables/curves")) == 1
    assert Ledger(root).read("curves").num_rows == FILES * ROWS


class _Paused(Ledger):
    """A ledger whose reader is passed by a compaction at a chosen point."""

    def __init__(self, root: Path, point: str) -> None:
        super().__init__(root)
        self.point = point
        self.passes = 0

    def _pass(self, point: str) -> None:
        if point == self.point and self.passes < 2:
            self.passes += 1
            _write(self.root, 10 + self.passes, 1)
            Ledger(self.root).compact("curves")

    def _generation(self, table: str) -> bytes:
        token = super()._generation(table)
        self._pass("between token and listing")
        return token

    def _listing(self, table: str) -> frozenset[str]:
        files = super()._listing(table)
        self._pass("between listing and metadata")
        return files

    def _live(self, table: str):  # type: ignore[no-untyped-def]
        files = super()._live(table)
        self._pass("between listing and reading")
        return files


@pytest.mark.parametrize("point", ["between token and listing", "between listing and reading"])
def test_a_reader_passed_by_a_compaction_starts_anew(tmp_path: Path, point: str) -> None:
    _write(str(tmp_path), 0, 3)
    paused = _Paused(tmp_path, point)
    assert paused.read("curves").num_rows >= 4 * ROWS
    assert paused.passes == 2


class _TornListing:
    """A file system whose first two listings miss what a compaction deleted and what it wrote."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.local = pyarrow.fs.LocalFileSystem()
        self.torn = 0

    def get_file_info(self, what: Any) -> Any:
        before = self.local.get_file_info(what)
        if not isinstance(what, pyarrow.fs.FileSelector) or self.torn == 2:
            return before
        self.torn += 1
        _write(str(self.root), 10 + self.torn, 1)
        Ledger(self.root).compact("curves")
        after = {info.path for info in self.local.get_file_info(what)}
        return [info for info in before if info.path in after]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.local, name)


def test_a_listing_torn_by_a_compaction_loses_no_rows(tmp_path: Path) -> None:
    _write(str(tmp_path), 0, 3)
    ledger = Ledger(tmp_path)
    ledger._opened = (_TornListing(tmp_path), str(tmp_path))
    assert ledger.read("curves").num_rows == 5 * ROWS


def test_an_append_passed_by_a_compaction_adds_its_rows_once(tmp_path: Path) -> None:
    _write(str(tmp_path), 0, 3)
    Ledger(tmp_path).compact("curves")
    paused = _Paused(tmp_path, "between listing and metadata")
    paused.append("curves", _rows(3), "t0003")
    paused.append("curves", _rows(3), "t0003")
    assert paused.passes == 2
    assert Ledger(tmp_path).read("curves").num_rows == 6 * ROWS


class _Dies(Ledger):
    """A ledger whose process dies at the first deletion of a compaction."""

    def delete(self, path: str) -> None:
        raise KeyboardInterrupt(path)


def test_a_compaction_that_dies_before_deleting_leaves_each_row_once_and_the_next_one_cleans_up(
    tmp_path: Path,
) -> None:
    _write(str(tmp_path), 0, 3)
    with pytest.raises(KeyboardInterrupt):
        _Dies(tmp_path).compact("curves")
    ledger = Ledger(tmp_path)
    assert len(ledger.list("tables/curves")) == 4
    assert ledger.read("curves").num_rows == 3 * ROWS
    _write(str(tmp_path), 0, 5)
    ledger.compact("curves")
    assert len(ledger.list("tables/curves")) == 1
    assert ledger.read("curves").num_rows == 5 * ROWS


@pytest.fixture
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server on a free port of this machine; gives the root URI of a run in its bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    for name, value in (
        ("AWS_ACCESS_KEY_ID", "k"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(
        Bucket="runs"
    )
    yield f"s3://runs/a/b?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
    server.stop()


def test_an_object_store_holds_tables_and_small_files_like_a_disk(object_store: str) -> None:
    ledger = Ledger(object_store)
    assert ledger.read("curves").num_rows == 0
    _write(object_store, 0, 3)
    _write(object_store, 1, 1)
    ledger.write_bytes("plan.json", b"{}")
    ledger.write_bytes("plan.json", b"[]")
    assert ledger.read_bytes("plan.json") == b"[]"
    before = ledger.read("curves")
    assert before.num_rows == 3 * ROWS
    ledger.compact("curves")
    assert Ledger(object_store).read("curves").equals(before)
    assert len(ledger.list("tables/curves")) == 1
    assert not ledger.exists("elsewhere")
    ledger.delete("plan.json")
    ledger.delete("tables")
    assert ledger.list() == []


def test_readers_of_an_object_store_see_every_finished_row_once_beside_a_compactor(object_store: str) -> None:
    done = threading.Event()
    compactor = threading.Thread(target=_compact_until, args=(object_store, done))
    compactor.start()
    try:
        for file in range(8):
            _write(object_store, file, 1)
            assert Ledger(object_store).read("curves").num_rows == (file + 1) * ROWS
    finally:
        done.set()
        compactor.join()


def test_an_object_is_published_by_one_put(object_store: str) -> None:
    import boto3

    endpoint = "http://" + object_store.split("endpoint_override=")[1].split("&")[0]
    Ledger(object_store).append("curves", _rows(1), "one")
    head = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").head_object(
        Bucket="runs", Key="a/b/tables/curves/one.parquet"
    )
    assert "-" not in head["ETag"], "the ETag of a multipart upload ends in its number of parts"
