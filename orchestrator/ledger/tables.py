"""The tables of a run: Parquet files under `<root>/tables/`, on a local disk, S3 or GCS.

Every file is written atomically (`Storage`) and never changed, so a reader sees all rows of a file or none.

Compaction keeps this true for whole tables. The metadata of a compacted file lists the files whose rows it has, and
readers skip those files. The compacted file is written first, then the table's generation token is changed, then the
replaced files are deleted. A reader reads the token, lists the files, and reads the token again. If the token is the
same, every file that was already deleted belongs to a compaction whose file was written before the listing began, so
no row is missing. Otherwise the reader starts again.
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
from orchestrator.ledger.storage import MAX_RETRIES, Storage

_META_TABLE, _META_VERSION, _META_REPLACES = b"ledger.table", b"ledger.schema_version", b"ledger.replaces"
_COMPACTED = "compacted-"
_SUFFIX = ".parquet"
_REQUESTS_AT_ONCE = 16
_OF_A_TRIAL = re.compile(r"[0-9a-f]{8,}-(\d+|tune|test)\.parquet")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")

T = TypeVar("T")


class _CompactedError(Exception):
    """A listed file no longer exists, because another process has compacted the table."""


class Ledger(Storage):
    """The tables of one run, and its other files. See `Storage` for `root`."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(root)
        self._replaced: dict[str, frozenset[str]] = {}
        self._replaced_names: dict[str, tuple[bytes, frozenset[str]]] = {}  # by table, with its generation

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_replaced": {}, "_replaced_names": {}}

    def append(self, table: str, rows: Sequence[Mapping[str, Any]] | pa.Table, name: str) -> None:
        """Add rows as one immutable file `<name>.parquet`.

        A second append under the same name changes nothing, also after a compaction. So choose a name that
        identifies the rows, such as trial id and attempt.

        Args:
            table: name of the table.
            rows: Python values, or an Arrow table. `params` is a mapping of JSON values (in an Arrow table they are
                JSON text), times are `datetime` with a time zone. Missing columns are null. `param_*` columns are
                made from `params`.
            name: file name without its suffix.

        Raises:
            UsageError: a column is unknown, a type is wrong, a key is null, or the name is not a file stem.
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
        if not self._retrying_compacted(table, lambda: self._was_written(table, file)):
            self.write_bytes(f"tables/{table}/{file}", _encode(schema, data, replaces=()))

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The table as one Arrow table in the current schema, sorted by key, with one row per key.

        Args:
            table: name of the table.
            columns: which columns to return, in this order, `param_*` columns among them; all by default. A column
                that a file does not have is null.

        Raises:
            UsageError: a file cannot be read; the message names the file and the remedy.
        """
        schema = table_named(table)
        wanted = None
        if columns is not None:
            for column in columns:
                if not column.startswith("param_"):
                    schema.column(column)
            wanted = list(dict.fromkeys([*schema.key, *columns]))
        merged = self._retrying_compacted(
            table, lambda: self._merged(schema, self._current_files(table), wanted)
        )
        return merged if columns is None else merged.select(list(columns))

    def compact(self, table: str) -> None:
        """Put all rows into one file and delete the others. Safe while other processes read, append or compact."""
        schema = table_named(table)

        def attempt() -> tuple[frozenset[str], bytes] | None:
            listed = self._listing(table)
            if len(listed) < 2:
                return None
            # The new file lists every name that was ever replaced, so that no name is written a second time.
            replaced = listed | self._replaced_by(table, listed)
            data = self._merged(schema, self._without_replaced(table, listed), None)
            return listed, _encode(schema, data, replaces=replaced)

        found = self._retrying_compacted(table, attempt)
        if found is None:
            return
        listed, data = found
        stem = hashlib.sha256("\n".join(sorted(listed)).encode()).hexdigest()[:20]
        self.write_bytes(f"tables/{table}/{_COMPACTED}{stem}{_SUFFIX}", data)
        self.write_bytes(self._generation_path(table), uuid.uuid4().hex.encode())
        for file in listed:
            self.delete(f"tables/{table}/{file}")

    def written_names(self, table: str) -> frozenset[str]:
        """Names of all appends whose rows are in the table, without reading rows."""
        listed = self._retrying_compacted(table, lambda: self._listing(table))
        names = listed | self._replaced_by(table, listed)
        return frozenset(name.removesuffix(_SUFFIX) for name in names if not name.startswith(_COMPACTED))

    def damaged_files(self, table: str, *, read: bool = False) -> dict[str, str]:
        """Files of a table that cannot be read or have rows of something else, by name, with what is wrong.

        Args:
            table: name of the table.
            read: read the files, and not their footers alone, which do not show an error in the data.
        """
        schema = table_named(table)
        files = sorted(self._retrying_compacted(table, lambda: self._listing(table)))
        # Each file of an object store costs several answers of the store, which are waited for together.
        with ThreadPoolExecutor(1 if self._is_local else _REQUESTS_AT_ONCE) as pool:
            found = zip(
                files, pool.map(lambda file: self._damage(schema, file, read=read), files), strict=True
            )
            return {file: why for file, why in found if why is not None}

    def _damage(self, schema: Table, file: str, *, read: bool) -> str | None:
        """What is wrong with a file; None if nothing is, or if storage does not answer: that is no damage."""
        path = f"tables/{schema.name}/{file}"
        try:
            data = self._retrying(path, lambda: self._footer_source(path, whole=read))
        except FileNotFoundError:  # compacted meanwhile
            return None
        try:
            with data, pq.ParquetFile(data) as parquet:
                metadata = parquet.schema_arrow.metadata or {}
                if _parse_version(metadata.get(_META_VERSION, b"0")) > SCHEMA_VERSION:
                    return None  # reading it says to update the program
                why = _wrong_content(schema, file, parquet)
                rows = parquet.read().replace_schema_metadata() if why is None and read else None
            if rows is not None:
                self._check_file(schema, file, rows, None)
        except (pa.ArrowInvalid, UsageError) as error:
            return f"it cannot be read ({str(error).splitlines()[0]})"
        except OSError as error:
            # Arrow also raises OSError for damaged data; an error of the system has a number.
            if error.errno is not None or isinstance(error, FileNotFoundError):
                raise
            return f"it cannot be read ({str(error).splitlines()[0]})"
        return why

    def _footer_source(self, path: str, *, whole: bool) -> pa.NativeFile:
        """The file for random access. With `whole`, an object is read first, so that no later error is of the network."""
        if whole and not self._is_local:
            with self._opened[0].open_input_stream(self._path(path), compression=None) as stream:
                return pa.BufferReader(stream.read())
        return self._opened[0].open_input_file(self._path(path))

    # --- Finding and merging the files of a table

    def _generation_path(self, table: str) -> str:
        return f"tables/.{table}.generation"

    def _generation(self, table: str) -> bytes:
        try:
            return self.read_bytes(self._generation_path(table))
        except FileNotFoundError:
            return b""

    def _retrying_compacted(self, table: str, attempt: Callable[[], T]) -> T:
        """The result of `attempt`, which is repeated when another process compacts the table during it."""
        for _ in range(MAX_RETRIES):
            with contextlib.suppress(_CompactedError):
                return attempt()
        raise OSError(
            f"table {table} in {self.place()} changed {MAX_RETRIES} times while it was read; read it again"
        )

    def _listing(self, table: str) -> frozenset[str]:
        """Names of the table's files; each row is in at least one of them, see the module's docstring."""
        before = self._generation(table)
        names = frozenset(
            info.base_name
            for info in self._files(self._path(f"tables/{table}"), recursive=False)
            if info.base_name.endswith(_SUFFIX) and not info.base_name.startswith((".", "_"))
        )
        if self._generation(table) != before:
            raise _CompactedError
        return names

    def _was_written(self, table: str, file: str) -> bool:
        """Whether a file of this name exists or was replaced by a compaction.

        The files are listed only after a compaction, because a table may have many. A compaction changes the
        generation before it deletes files, so the generation is new whenever a file is missing.
        """
        if self.exists(f"tables/{table}/{file}"):
            return True
        generation = self._generation(table)
        known, replaced = self._replaced_names.get(table, (None, frozenset[str]()))
        if known != generation:
            replaced = self._replaced_by(table, self._listing(table))
            self._replaced_names[table] = (generation, replaced)
        return file in replaced

    def _current_files(self, table: str) -> Sequence[str]:
        return self._without_replaced(table, self._listing(table))

    def _without_replaced(self, table: str, listed: frozenset[str]) -> Sequence[str]:
        replaced = self._replaced_by(table, listed)
        # Compacted files first: of two rows with the same key, the one that was there before is used.
        return sorted(listed - replaced, key=lambda file: (not file.startswith(_COMPACTED), file))

    def _replaced_by(self, table: str, listed: frozenset[str]) -> frozenset[str]:
        return frozenset[str]().union(*(self._replaces(table, file) for file in listed))

    def _replaces(self, table: str, file: str) -> frozenset[str]:
        if not file.startswith(_COMPACTED):
            return frozenset()
        key = f"{table}/{file}"
        if key not in self._replaced:
            metadata = self._open(table, file, lambda parquet: parquet.schema_arrow.metadata or {})
            self._replaced[key] = _parse_names(metadata.get(_META_REPLACES, b"[]"))
        return self._replaced[key]

    def _open(self, table: str, file: str, use: Callable[[pq.ParquetFile], T]) -> T:
        path = f"tables/{table}/{file}"
        try:
            with self._source(path) as source, pq.ParquetFile(source) as parquet:
                return use(parquet)
        except UsageError:
            raise
        except Exception as error:  # Arrow does not document what it raises for a damaged file
            if not self.exists(path):
                raise _CompactedError from error
            raise UsageError(
                f"{self.place(path)} cannot be read: {error}. It is damaged or not a Parquet file; "
                "the sweep command of this run moves it away and trains its trials again."
            ) from error

    def _source(self, path: str) -> pa.NativeFile:
        """The file for random access. An object is read as a whole first, so that a parse error means a damaged file."""
        if self._is_local:
            return self._opened[0].open_input_file(self._path(path))
        return pa.BufferReader(self.read_bytes(path))

    def _merged(self, schema: Table, files: Sequence[str], wanted: Sequence[str] | None) -> pa.Table:
        def load(file: str) -> pa.Table:
            def use(parquet: pq.ParquetFile) -> pa.Table:
                found = parquet.schema_arrow
                version = _parse_version((found.metadata or {}).get(_META_VERSION, b"0"))
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
        arranged = self._check_files(schema, dict(zip(files, parts, strict=True)), wanted)
        return deduplicate(schema, concatenate(schema, arranged, wanted))

    def _check_files(
        self, schema: Table, read: Mapping[str, pa.Table], wanted: Sequence[str] | None
    ) -> Sequence[pa.Table]:
        """The rows of each file in the table's schema. Files of equal schema are checked at once: there may be thousands."""
        by_schema: dict[pa.Schema, list[str]] = {}
        for file, data in read.items():
            by_schema.setdefault(data.schema, []).append(file)
        found: dict[str, pa.Table] = {}
        for files in by_schema.values():
            whole = pa.concat_tables([read[file] for file in files])
            try:
                whole = self._check_file(schema, files[0], whole, wanted)
            except UsageError:
                for file in files:  # find the file at fault
                    self._check_file(schema, file, read[file], wanted)
                raise
            begins = 0
            for file in files:
                found[file] = whole.slice(begins, len(read[file]))
                begins += len(read[file])
        return [found[file] for file in read]

    def _check_file(self, schema: Table, file: str, data: pa.Table, wanted: Sequence[str] | None) -> pa.Table:
        """The rows of one file in the table's schema; raises `UsageError` with the file's name."""
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


def _wrong_content(schema: Table, file: str, parquet: pq.ParquetFile) -> str | None:
    """What is wrong with a file according to its footer; None if nothing is."""
    table = (parquet.schema_arrow.metadata or {}).get(_META_TABLE, schema.name.encode())
    if table != schema.name.encode():
        return f"it has rows of the table {table.decode(errors='replace')}"
    if schema.key[0] != "trial_id" or file.startswith(_COMPACTED):
        return None
    column = parquet.schema_arrow.get_field_index("trial_id")
    for group in range(parquet.num_row_groups):
        statistics = parquet.metadata.row_group(group).column(column).statistics
        if statistics is not None and statistics.has_min_max:
            for trial_id in (statistics.min, statistics.max):
                if _OF_A_TRIAL.fullmatch(file) and not file.startswith(f"{trial_id}-"):
                    return f"it has rows of trial {trial_id}"
    return None


def _encode(schema: Table, data: pa.Table, replaces: Sequence[str] | frozenset[str]) -> bytes:
    metadata = {_META_TABLE: schema.name, _META_VERSION: str(SCHEMA_VERSION)}
    if replaces:
        metadata[_META_REPLACES] = json.dumps(sorted(replaces))
    buffer = io.BytesIO()
    pq.write_table(data.replace_schema_metadata(metadata), buffer, compression="zstd")
    return buffer.getvalue()


def _parse_version(text: bytes) -> int:
    """The schema version in a file's metadata; 0 if it is not a number, then only the columns are checked."""
    return int(text) if text.isdigit() and len(text) < 10 else 0


def _parse_names(text: bytes) -> frozenset[str]:
    """File names in a compacted file's metadata; none if they cannot be parsed, so that no row is skipped."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return frozenset()
    return (
        frozenset(name for name in found if isinstance(name, str)) if isinstance(found, list) else frozenset()
    )
