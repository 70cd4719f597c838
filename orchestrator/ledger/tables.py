"""The ledger: Parquet tables under `<root>/tables/`, on a local disk, S3 or GCS; the truth about a run.

Every file is written whole (`Storage`) and never changed. So a reader sees a file's rows all or not at all.

Compaction keeps that for whole tables. A compacted file names in its metadata the files whose rows it
holds, and readers drop the files that it replaces. It is written first, then the table's generation token is
changed, then the replaced files are deleted. A reader reads the token, lists, and reads the token again: if
it is the same, every deletion that the listing could have seen belongs to a compaction whose file was there
before the listing began, so no row is missing; otherwise the reader starts anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from distill.errors import UsageError, reading
from orchestrator.ledger.arrow_rows import (
    arrange,
    check_values,
    concatenate,
    deduplicate,
    table_from_rows,
    with_parameter_columns,
)
from orchestrator.ledger.schema import SCHEMA_VERSION, Table, table_named
from orchestrator.ledger.storage import RESTARTS, Storage

_META_TABLE, _META_VERSION, _META_REPLACES = b"ledger.table", b"ledger.schema_version", b"ledger.replaces"
_COMPACTED = "compacted-"
_SUFFIX = ".parquet"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")

T = TypeVar("T")


class _MovedError(Exception):
    """A file listed a moment ago is gone: a compaction passed by."""


class Ledger(Storage):
    """The tables of one run, and small files beside them. See `Storage` for what `root` may be."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(root)
        self._replaced: dict[str, frozenset[str]] = {}
        self._gone: dict[str, tuple[bytes, frozenset[str]]] = {}  # names that compactions replaced, by table

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_replaced": {}, "_gone": {}}

    def append(self, table: str, rows: Sequence[Mapping[str, Any]] | pa.Table, name: str) -> None:
        """Add rows as one immutable file `<name>.parquet`.

        A name is written once: a second append under it, before or after a compaction, changes nothing. So
        give rows a name that follows from what they are, such as trial id and attempt.

        Row values are plain Python: `params` a mapping of JSON values (in an Arrow table: already encoded),
        times `datetime` with a time zone. `param_*` columns follow from `params`. Columns left out are null.

        Raises `UsageError` for unknown columns, wrong types, null keys and names that are no file stems.
        """
        schema = table_named(table)
        if not _NAME.fullmatch(name) or name.startswith(_COMPACTED):
            raise UsageError(
                f"name is '{name}', must be a file stem of letters, digits and ._=+- that does not begin "
                f"with a punctuation mark or '{_COMPACTED}'"
            )
        if isinstance(rows, pa.Table):
            data = with_parameter_columns(schema, arrange(schema, rows))
        else:
            data = arrange(schema, table_from_rows(schema, rows))
        if data.num_rows == 0:
            return
        file = name + _SUFFIX
        if not self._restarting(table, lambda: self._is_taken(table, file)):
            self.write_bytes(f"tables/{table}/{file}", _encode(schema, data, replaces=()))

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The table as one Arrow table: each key once, sorted by key, in the newest schema.

        Columns that a file lacks are null. `columns` picks and orders columns; `param_*` may be among them.
        Raises `UsageError` for a file that cannot be read, naming it and the remedy.
        """
        schema = table_named(table)
        wanted = None
        if columns is not None:
            for column in columns:
                if not column.startswith("param_"):
                    schema.column(column)
            wanted = list(dict.fromkeys([*schema.key, *columns]))
        merged = self._restarting(table, lambda: self._merged(schema, self._live(table), wanted))
        return merged if columns is None else merged.select(list(columns))

    def compact(self, table: str) -> None:
        """Put all rows into one file and delete the others. Safe beside readers, writers and itself."""
        schema = table_named(table)

        def attempt() -> tuple[frozenset[str], bytes] | None:
            listed = self._listing(table)
            if len(listed) < 2:
                return None
            # All that was ever replaced goes into the new file, so that a name stays taken for good.
            gone = listed | self._replaced_by(table, listed)
            data = self._merged(schema, self._without_replaced(table, listed), None)
            return listed, _encode(schema, data, replaces=gone)

        found = self._restarting(table, attempt)
        if found is None:
            return
        listed, data = found
        stem = hashlib.sha256("\n".join(sorted(listed)).encode()).hexdigest()[:20]
        self.write_bytes(f"tables/{table}/{_COMPACTED}{stem}{_SUFFIX}", data)
        self.write_bytes(self._generation_path(table), uuid.uuid4().hex.encode())
        for file in listed:
            self.delete(f"tables/{table}/{file}")

    # --- How a table's files are found and merged

    def _generation_path(self, table: str) -> str:
        return f"tables/.{table}.generation"

    def _generation(self, table: str) -> bytes:
        try:
            return self.read_bytes(self._generation_path(table))
        except FileNotFoundError:
            return b""

    def _restarting(self, table: str, attempt: Callable[[], T]) -> T:
        for _ in range(RESTARTS):
            with contextlib.suppress(_MovedError):
                return attempt()
        raise OSError(
            f"table {table} in {self.place()} changed {RESTARTS} times while it was read; read it again"
        )

    def _listing(self, table: str) -> frozenset[str]:
        """Names of the table's files, with every row in at least one of them; see the module's docstring."""
        before = self._generation(table)
        names = frozenset(
            info.base_name
            for info in self._files(self._path(f"tables/{table}"), recursive=False)
            if info.base_name.endswith(_SUFFIX) and not info.base_name.startswith((".", "_"))
        )
        if self._generation(table) != before:
            raise _MovedError
        return names

    def _is_taken(self, table: str, file: str) -> bool:
        """Whether a file of this name is or was there. No listing while nobody compacts: a table may hold many files.

        A compaction tells its generation before it deletes, and so whoever misses a file sees a new generation.
        """
        if self.exists(f"tables/{table}/{file}"):
            return True
        generation = self._generation(table)
        known, gone = self._gone.get(table, (None, frozenset[str]()))
        if known != generation:
            gone = self._replaced_by(table, self._listing(table))
            self._gone[table] = (generation, gone)
        return file in gone

    def _live(self, table: str) -> Sequence[str]:
        return self._without_replaced(table, self._listing(table))

    def _without_replaced(self, table: str, listed: frozenset[str]) -> Sequence[str]:
        replaced = self._replaced_by(table, listed)
        # Compacted files first: where a key stands in two files, the rows already there win.
        return sorted(listed - replaced, key=lambda file: (not file.startswith(_COMPACTED), file))

    def _replaced_by(self, table: str, listed: frozenset[str]) -> frozenset[str]:
        return frozenset[str]().union(*(self._replaces(table, file) for file in listed))

    def _replaces(self, table: str, file: str) -> frozenset[str]:
        if not file.startswith(_COMPACTED):
            return frozenset()
        key = f"{table}/{file}"
        if key not in self._replaced:
            metadata = self._open(table, file, lambda parquet: parquet.schema_arrow.metadata or {})
            self._replaced[key] = _names(metadata.get(_META_REPLACES, b"[]"))
        return self._replaced[key]

    def _open(self, table: str, file: str, use: Callable[[pq.ParquetFile], T]) -> T:
        path = f"tables/{table}/{file}"
        try:
            with self._source(path) as source, pq.ParquetFile(source) as parquet:
                return use(parquet)
        except UsageError:
            raise
        except Exception as error:  # Arrow promises no kind of error over a damaged file
            if not self.exists(path):
                raise _MovedError from error
            raise UsageError(
                f"{self.place(path)} cannot be read: {error}. It is damaged or no Parquet file; "
                "delete it, and the same sweep command trains again what it held."
            ) from error

    def _source(self, path: str) -> pa.NativeFile:
        """The file for random access; from an object store in one piece, so that what cannot be parsed is damaged."""
        if self._is_local:
            return self._opened[0].open_input_file(self._path(path))
        return pa.BufferReader(self.read_bytes(path))

    def _merged(self, schema: Table, files: Sequence[str], wanted: Sequence[str] | None) -> pa.Table:
        def load(file: str) -> pa.Table:
            def use(parquet: pq.ParquetFile) -> pa.Table:
                found = parquet.schema_arrow
                version = _number((found.metadata or {}).get(_META_VERSION, b"0"))
                if version > SCHEMA_VERSION:
                    raise UsageError(
                        f"{self.place(f'tables/{schema.name}/{file}')} has schema version {version}, "
                        f"this program knows {SCHEMA_VERSION} and older ones; update the program"
                    )
                columns = None if wanted is None else [name for name in wanted if name in found.names]
                return parquet.read(columns=columns, use_threads=False).replace_schema_metadata()

            return self._open(schema.name, file, use)

        if len(files) > 1:
            with ThreadPoolExecutor(min(8, len(files))) as pool:
                parts = list(pool.map(load, files))
        else:
            parts = [load(file) for file in files]
        arranged = self._all_checked(schema, dict(zip(files, parts, strict=True)), wanted)
        return deduplicate(schema, concatenate(schema, arranged, wanted))

    def _all_checked(
        self, schema: Table, read: Mapping[str, pa.Table], wanted: Sequence[str] | None
    ) -> Sequence[pa.Table]:
        """Each file's rows in the table's schema; those of one form at once, as there may be thousands of files."""
        alike: dict[pa.Schema, list[str]] = {}
        for file, data in read.items():
            alike.setdefault(data.schema, []).append(file)
        found: dict[str, pa.Table] = {}
        for files in alike.values():
            whole = pa.concat_tables([read[file] for file in files])
            try:
                whole = self._checked(schema, files[0], whole, wanted)
            except UsageError:
                for file in files:  # whose fault it is
                    self._checked(schema, file, read[file], wanted)
                raise
            begins = 0
            for file in files:
                found[file] = whole.slice(begins, len(read[file]))
                begins += len(read[file])
        return [found[file] for file in read]

    def _checked(self, schema: Table, file: str, data: pa.Table, wanted: Sequence[str] | None) -> pa.Table:
        """The file's rows in the table's schema; raises `UsageError` naming the file."""
        place = self.place(f"tables/{schema.name}/{file}")
        try:
            with reading(place, "move it away"):
                return check_values(schema, arrange(schema, data, wanted))
        except UsageError as error:
            raise UsageError(f"{place} is no file of this table: {error}; move it away") from error


def open_run(root: str) -> Ledger:
    """The ledger of a run that exists.

    Raises:
        UsageError: the folder holds no tables.
    """
    ledger = Ledger(root)
    if not ledger.exists("tables"):
        raise UsageError(f"{ledger.place()} holds no tables; give the folder of a run (its --output)")
    return ledger


def _encode(schema: Table, data: pa.Table, replaces: Sequence[str] | frozenset[str]) -> bytes:
    metadata = {_META_TABLE: schema.name, _META_VERSION: str(SCHEMA_VERSION)}
    if replaces:
        metadata[_META_REPLACES] = json.dumps(sorted(replaces))
    buffer = io.BytesIO()
    pq.write_table(data.replace_schema_metadata(metadata), buffer, compression="zstd")
    return buffer.getvalue()


def _number(text: bytes) -> int:
    """A schema version; one that is no number is no version of ours, so the columns must speak for themselves."""
    return int(text) if text.isdigit() and len(text) < 10 else 0


def _names(text: bytes) -> frozenset[str]:
    """The names of files in a compacted file's metadata; none where they cannot be read, so that no row is hidden."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return frozenset()
    return (
        frozenset(name for name in found if isinstance(name, str)) if isinstance(found, list) else frozenset()
    )
