from __future__ import annotations

import multiprocessing
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest

from orchestrator.ledger.tables import Ledger

FILES, ROWS = 40, 3


def _rows(file: int) -> list[dict[str, object]]:
    return [{"trial_id": f"t{file:04d}", "step": step, "loss_total": float(file)} for step in range(ROWS)]


def _write(root: str, first: int, count: int) -> None:
    for file in range(first, first + count):
        Ledger(root).append("curves", _rows(file), f"t{file:04d}")


def _compact_until(root: str, done: object) -> None:
    while not done.is_set():  # type: ignore[attr-defined]
        Ledger(root).compact("curves")


@pytest.mark.slow
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

    def _current_files(self, table: str):  # type: ignore[no-untyped-def]
        files = super()._current_files(table)
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
