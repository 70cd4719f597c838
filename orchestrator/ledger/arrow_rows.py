"""Rows as people write them, turned into Arrow tables of the ledger's schema."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.errors import UsageError, printable
from orchestrator.ledger.schema import PARAMETER_PREFIX, Column, Table, arrow_schema, arrow_type


def table_from_rows(schema: Table, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """An Arrow table of the columns that any row has. Raises `UsageError` naming column, value and rule."""
    present = dict.fromkeys(name for row in rows for name in row if not name.startswith(PARAMETER_PREFIX))
    columns = {}
    for name in present:
        column = schema.column(name)
        values = [_plain(column, row.get(name)) for row in rows]
        try:
            columns[name] = pa.array(values, arrow_type(column.type))
        except (pa.ArrowException, TypeError, ValueError) as error:
            wrong = next((value for value in values if not _fits(column, value)), values)
            raise UsageError(
                f"column {name} of table {schema.name} is {wrong!r}, must be {column.type}: {error}"
            ) from error
    return pa.table(columns)


def arrange(schema: Table, data: pa.Table, wanted: Sequence[str] | None = None) -> pa.Table:
    """The same rows with the schema's columns in its order, missing ones null, `param_*` columns behind them.

    `wanted` keeps only those columns. Raises `UsageError` for unknown columns, types that do not convert,
    null keys and values that are not among a column's choices.
    """
    fields, columns = [], []
    for field in arrow_schema(schema):
        if wanted is not None and field.name not in wanted:
            continue
        if field.name in data.column_names:
            columns.append(_cast(schema, data.column(field.name), field))
        else:
            columns.append(_cast(schema, pa.chunked_array([pa.nulls(data.num_rows, field.type)]), field))
        fields.append(field)
    for name in data.column_names:
        if name.startswith(PARAMETER_PREFIX) and schema.name == "trials":
            fields.append(data.schema.field(name))
            columns.append(data.column(name))
        else:
            schema.column(name)
    return pa.table(columns, schema=pa.schema(fields))


def checked(schema: Table, data: pa.Table) -> pa.Table:
    """The same rows, once every value is what its column promises.

    A score that is no number becomes null, and what would steer a terminal in a text is written out.

    A run's folder may come from anybody: what reads it relies on this.

    Raises:
        UsageError: a value is out of its range, no JSON, no text, no id or no moment; names column, value and rule.
    """
    try:
        data.validate(full=True)
    except pa.ArrowException as error:
        raise UsageError(f"table {schema.name} holds what its types do not allow: {error}") from error
    for place, name in enumerate(data.column_names):
        if name.startswith(PARAMETER_PREFIX):
            continue
        column, values = schema.column(name), data.column(name)
        if pa.types.is_string(values.type) and pc.any(pc.match_substring_regex(values, _STEERING)).as_py():
            shown = {text: printable(text) for text in pc.unique(values).to_pylist() if text is not None}
            values = pa.chunked_array([[shown.get(text) for text in values.to_pylist()]], pa.string())
            data = data.set_column(place, data.schema.field(name), values)
        if column.span is not None and pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
            data = data.set_column(place, data.schema.field(name), values)
        wrong = _wrong_value(column, values)
        if wrong is not None:
            raise UsageError(f"column {name} of table {schema.name} is {wrong[0][:80]}, must be {wrong[1]}")
    return data


def with_parameter_columns(schema: Table, data: pa.Table) -> pa.Table:
    """The rows with a `param_*` column per hyper-parameter: float64 where all are numbers, else text."""
    if schema.name != "trials":
        return data
    data = data.select([name for name in data.column_names if not name.startswith(PARAMETER_PREFIX)])
    params = [_decoded(row) for row in data.column("params").to_pylist()]
    for name in sorted({name for row in params for name in row}):
        values = [row.get(name) for row in params]
        present = [value for value in values if value is not None]
        if not present:
            continue
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in present)
        if numeric:
            column = pa.array([None if value is None else float(value) for value in values], pa.float64())
        else:
            column = pa.array([_text(value) for value in values], pa.string())
        data = data.append_column(PARAMETER_PREFIX + name, column)
    return data


def concatenated(schema: Table, parts: Sequence[pa.Table], wanted: Sequence[str] | None) -> pa.Table:
    """One table of all parts. A `param_*` column of numbers in one part and text in another becomes text."""
    types: dict[str, set[pa.DataType]] = {}
    for part in parts:
        for field in part.schema:
            if field.name.startswith(PARAMETER_PREFIX):
                types.setdefault(field.name, set()).add(field.type)
    mixed = {name for name, found in types.items() if len(found) > 1}
    if mixed:
        parts = [_as_text(part, mixed) for part in parts]
    merged = pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
    for name in wanted or ():
        if name.startswith(PARAMETER_PREFIX) and name not in types:
            merged = merged.append_column(name, pa.nulls(merged.num_rows))
    ordered = [name for name in merged.column_names if not name.startswith(PARAMETER_PREFIX)] + sorted(types)
    ordered += [name for name in merged.column_names if name not in ordered]
    return arrange(schema, merged.select(ordered), wanted)


def unique(schema: Table, data: pa.Table) -> pa.Table:
    """Sorted by key, each key once: the first of equal ones, which for files means the first file."""
    if data.num_rows == 0:
        return data
    order = pa.table({**{k: data.column(k) for k in schema.key}, "row": pa.array(np.arange(data.num_rows))})
    order = order.sort_by([(k, "ascending") for k in (*schema.key, "row")])
    differs = pa.array([True])
    if data.num_rows > 1:
        later = [pc.not_equal(order.column(k)[1:], order.column(k)[:-1]) for k in schema.key]
        change = later[0]
        for other in later[1:]:
            change = pc.or_(change, other)
        differs = pa.chunked_array([differs, *change.chunks])
    return data.take(order.column("row").filter(differs)).combine_chunks()


def _as_text(part: pa.Table, names: Set[str]) -> pa.Table:
    """The part with the named columns, where it has them, cast to text."""
    for place, name in enumerate(part.column_names):
        if name in names:
            part = part.set_column(place, name, part.column(name).cast(pa.string()))
    return part


def _decoded(params: Sequence[tuple[str, str]] | None) -> dict[str, Any]:
    return {name: json.loads(value) for name, value in params or ()}


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _plain(column: Column, value: Any) -> Any:
    """A value as Arrow takes it: numpy scalars unpacked, JSON encoded, mappings as sorted pairs."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return None
    if column.type == "json":
        return value if isinstance(value, str) else json.dumps(_jsonable(value), sort_keys=True)
    if column.type.startswith("map<") and isinstance(value, Mapping):
        if column.type == "map<string, json>":
            return [(str(k), json.dumps(_jsonable(v), sort_keys=True)) for k, v in sorted(value.items())]
        return [(str(k), _jsonable(v)) for k, v in sorted(value.items())]
    return value


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value


def _fits(column: Column, value: Any) -> bool:
    try:
        pa.array([value], arrow_type(column.type))
    except (pa.ArrowException, TypeError, ValueError):
        return False
    return True


def _wrong_value(column: Column, values: pa.ChunkedArray) -> tuple[str, str] | None:
    """The first value that breaks the column's promise, and the rule; None where there is none."""
    if column.span is not None and values.length() > values.null_count:
        ends = pc.min_max(values).as_py()
        low, high = column.span
        for end in (ends["min"], ends["max"]):
            if not low <= end <= high:
                return repr(end), f"from {low:g} to {high:g}"
    if column.type == "timestamp" and values.length() > values.null_count:
        ends = pc.min_max(values.cast(pa.int64())).as_py()
        if ends["min"] < _MOMENTS[0] or ends["max"] > _MOMENTS[1]:
            return "out of range", "a moment of the years 1 to 9999"
    if column.name in _IDS:
        for value in pc.unique(values).to_pylist():
            if value is not None and not _ID.fullmatch(value):
                return repr(value), "an id: letters, digits and ._=+-, at most 200, a letter or digit first"
    if column.type == "json":
        for value in values.to_pylist():
            if value is not None and not isinstance(_json(value), dict):
                return repr(value), "a JSON object of finite numbers and text"
    if column.type.startswith("map<"):
        for pairs in values.to_pylist():
            for name, value in pairs or ():
                if value is None or (column.type == "map<string, json>" and _json(value) is _NO_JSON):
                    return f"{name}: {value!r}", f"{column.type} without nulls, of finite numbers and text"
    return None


_IDS = ("trial_id", "provenance_id")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}")
_MOMENTS = (-62_135_596_800_000_000, 253_402_300_799_999_999)  # microseconds from 1970
_NO_JSON = object()
_STEERING = r"[^\t\n\x20-\x7e]"  # all that `printable` need look at


def _json(text: str) -> Any:
    """The value of JSON text; `_NO_JSON` where it is none or holds a number without a finite value."""
    try:
        return json.loads(text, parse_constant=_refused, parse_float=_finite)
    except (ValueError, RecursionError):
        return _NO_JSON


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refused(text)


def _refused(text: str) -> float:
    raise ValueError(f"{text} is no finite number")


def _cast(schema: Table, values: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if values.type != field.type:
        try:
            values = values.cast(field.type)
        except pa.ArrowException as error:
            raise UsageError(
                f"column {field.name} of table {schema.name} is {values.type}, must be {field.type}: {error}"
            ) from error
    if field.name in schema.key and values.null_count:
        raise UsageError(
            f"column {field.name} of table {schema.name} is null in {values.null_count} of {len(values)} "
            "rows, must have a value: it is part of the key"
        )
    choices = schema.column(field.name).choices
    if choices and len(values):
        found = {value for value in pc.unique(values).to_pylist() if value is not None}
        if found - set(choices):
            raise UsageError(
                f"column {field.name} of table {schema.name} is {sorted(found - set(choices))[0]!r}, "
                f"must be one of {', '.join(choices)}"
            )
    return values
