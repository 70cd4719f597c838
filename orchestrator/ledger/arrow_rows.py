"""Rows of plain Python values as Arrow tables of the ledger's schema, and the checks of what is read back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.errors import UsageError, printable
from orchestrator.ledger.queries import parameters_of
from orchestrator.ledger.schema import PARAMETER_PREFIX, Column, Table, arrow_schema, arrow_type

_ID_COLUMNS = ("trial_id", "provenance_id")
_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}")
_TIMESTAMP_RANGE = (
    -62_135_596_800_000_000,
    253_402_300_799_999_999,
)  # microseconds from 1970, years 1 to 9999
_NOT_PLAIN_ASCII = r"[^\t\n\x20-\x7e]"  # `printable` changes no text without such a character
_INVALID_JSON = object()


class _Parameter(NamedTuple):
    """A hyper-parameter: its value and the value as JSON."""

    value: Any
    text: str


def table_from_rows(schema: Table, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """An Arrow table of the columns that at least one row has; for `trials` also the `param_*` columns.

    Raises:
        UsageError: a column is unknown, or a value does not convert; the message names column, value and type.
    """
    names = dict.fromkeys(name for row in rows for name in row if not name.startswith(PARAMETER_PREFIX))
    parameters: list[dict[str, _Parameter]] = []
    columns = {}
    for name in names:
        column, values = schema.column(name), [row.get(name) for row in rows]
        try:
            if column.type == "map<string, json>":
                mappings = [_encode_parameters(value) for value in values]
                parameters = mappings if name == "params" else parameters
                encoded: list[Any] = [
                    None if value is None else [(key, item.text) for key, item in found.items()]
                    for value, found in zip(values, mappings, strict=True)
                ]
            else:
                encoded = [_to_arrow_value(column, value) for value in values]
            columns[name] = pa.array(encoded, arrow_type(column.type))
        except (pa.ArrowException, TypeError, ValueError) as error:
            wrong = next((value for value in values if not _converts(column, value)), values)
            raise UsageError(
                f"column {name} of table {schema.name} is {wrong!r}, must be {column.type}: {error}"
            ) from error
    return _with_columns_of(pa.table(columns), parameters)


def with_parameter_columns(schema: Table, data: pa.Table) -> pa.Table:
    """The table with its `param_*` columns made anew from the column `params`; other tables than `trials` as they are."""
    if schema.name != "trials":
        return data
    parameters = [_encode_parameters(row) for row in data.column("params").to_pylist()]
    kept = [name for name in data.column_names if not name.startswith(PARAMETER_PREFIX)]
    return _with_columns_of(data.select(kept), parameters)


def arrange(schema: Table, data: pa.Table, wanted: Sequence[str] | None = None) -> pa.Table:
    """The same rows with the schema's columns in its order, then `param_*` columns. Missing columns are null.

    Args:
        schema: the table.
        data: the rows.
        wanted: keep only these columns of the schema.

    Raises:
        UsageError: a column is unknown, a type does not convert, a key is null, or a value is not one of the choices.
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


def check_values(schema: Table, data: pa.Table) -> pa.Table:
    """The same rows after every value was checked against its column, for files that anyone may have written.

    A score that is nan becomes null. Control characters in text are escaped, so that they cannot change a terminal.

    Raises:
        UsageError: a value is out of range, or not valid JSON, text, id or time; names column, value and rule.
    """
    try:
        data.validate(full=True)
    except pa.ArrowException as error:
        raise UsageError(f"table {schema.name} has values that their types do not allow: {error}") from error
    for place, name in enumerate(data.column_names):
        if name.startswith(PARAMETER_PREFIX):
            continue
        column, values = schema.column(name), data.column(name)
        if (
            pa.types.is_string(values.type)
            and pc.any(pc.match_substring_regex(values, _NOT_PLAIN_ASCII)).as_py()
        ):
            escaped = {text: printable(text) for text in pc.unique(values).to_pylist() if text is not None}
            values = pa.chunked_array([[escaped.get(text) for text in values.to_pylist()]], pa.string())
            data = data.set_column(place, data.schema.field(name), values)
        if column.value_range is not None and pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
            data = data.set_column(place, data.schema.field(name), values)
        invalid = _invalid_value(column, values)
        if invalid is not None:
            raise UsageError(
                f"column {name} of table {schema.name} is {invalid[0][:80]}, must be {invalid[1]}"
            )
    return data


def concatenate(schema: Table, parts: Sequence[pa.Table], wanted: Sequence[str] | None) -> pa.Table:
    """One table of all parts. A `param_*` column of numbers in one part and text in another becomes text."""
    types: dict[str, set[pa.DataType]] = {}
    for part in parts:
        for field in part.schema:
            if field.name.startswith(PARAMETER_PREFIX):
                types.setdefault(field.name, set()).add(field.type)
    mixed = {name for name, found in types.items() if len(found) > 1}
    if mixed:
        parts = [_cast_to_text(part, mixed) for part in parts]
    merged = pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
    for name in wanted or ():
        if name.startswith(PARAMETER_PREFIX) and name not in types:
            merged = merged.append_column(name, pa.nulls(merged.num_rows))
    ordered = [name for name in merged.column_names if not name.startswith(PARAMETER_PREFIX)] + sorted(types)
    ordered += [name for name in merged.column_names if name not in ordered]
    return arrange(schema, merged.select(ordered), wanted)


def deduplicate(schema: Table, data: pa.Table) -> pa.Table:
    """Rows sorted by key, with one row per key: the first of those with equal keys."""
    if data.num_rows == 0:
        return data
    order = pa.table({**{k: data.column(k) for k in schema.key}, "row": pa.array(np.arange(data.num_rows))})
    order = order.sort_by([(k, "ascending") for k in (*schema.key, "row")])
    is_first = pa.array([True])
    if data.num_rows > 1:
        differs = [pc.not_equal(order.column(k)[1:], order.column(k)[:-1]) for k in schema.key]
        change = differs[0]
        for other in differs[1:]:
            change = pc.or_(change, other)
        is_first = pa.chunked_array([is_first, *change.chunks])
    return data.take(order.column("row").filter(is_first)).combine_chunks()


def _encode_parameters(params: Any) -> dict[str, _Parameter]:
    """Hyper-parameters by name; from a mapping of values, or from pairs of a name and JSON as in a stored row."""
    if not isinstance(params, Mapping):
        pairs = list(params or ())
        values = parameters_of(pairs)
        return {name: _Parameter(values[name], text) for name, text in pairs}
    found = {}
    for name, value in sorted(params.items()):
        plain = _to_json_types(value)
        found[str(name)] = _Parameter(plain, json.dumps(plain, sort_keys=True))
    return found


def _with_columns_of(data: pa.Table, parameters: Sequence[Mapping[str, _Parameter]]) -> pa.Table:
    """The table with a `param_*` column per hyper-parameter: float64 if all values are numbers, otherwise text."""
    for name in sorted({name for row in parameters for name in row}):
        found = [row.get(name) for row in parameters]
        known = [None if item is None or item.value is None else item for item in found]
        values = [item.value for item in known if item is not None]
        if not values:
            continue
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            column = pa.array([None if item is None else float(item.value) for item in known], pa.float64())
        else:
            column = pa.array([None if item is None else _text(item) for item in known], pa.string())
        data = data.append_column(PARAMETER_PREFIX + name, column)
    return data


def _text(parameter: _Parameter) -> str:
    return parameter.value if isinstance(parameter.value, str) else parameter.text


def _to_arrow_value(column: Column, value: Any) -> Any:
    """A value as Arrow takes it: numpy scalars become Python numbers, JSON becomes text, mappings become pairs."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return None
    if column.type == "json":
        return value if isinstance(value, str) else json.dumps(_to_json_types(value), sort_keys=True)
    if column.type.startswith("map<") and isinstance(value, Mapping):
        return [(str(name), _to_json_types(item)) for name, item in sorted(value.items())]
    return value


def _to_json_types(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _to_json_types(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_types(item) for item in value]
    return value


def _converts(column: Column, value: Any) -> bool:
    """Whether Arrow converts the value to the column's type."""
    try:
        pa.array([value], arrow_type(column.type))
    except (pa.ArrowException, TypeError, ValueError):
        return False
    return True


def _cast(schema: Table, values: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """The column in the field's type; raises `UsageError` for a null in a key and for a value outside the choices."""
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


def _cast_to_text(part: pa.Table, names: Set[str]) -> pa.Table:
    """The part with the named columns, where it has them, cast to text."""
    for place, name in enumerate(part.column_names):
        if name in names:
            part = part.set_column(place, name, part.column(name).cast(pa.string()))
    return part


def _invalid_value(column: Column, values: pa.ChunkedArray) -> tuple[str, str] | None:
    """The first value that the column does not allow, and the rule; None if all are valid."""
    if column.value_range is not None and values.length() > values.null_count:
        ends = pc.min_max(values).as_py()
        low, high = column.value_range
        for end in (ends["min"], ends["max"]):
            if not low <= end <= high:
                return repr(end), f"from {low:g} to {high:g}"
    if column.type == "timestamp" and values.length() > values.null_count:
        ends = pc.min_max(values.cast(pa.int64())).as_py()
        if ends["min"] < _TIMESTAMP_RANGE[0] or ends["max"] > _TIMESTAMP_RANGE[1]:
            return "out of range", "a time in the years 1 to 9999"
    if column.name in _ID_COLUMNS:
        for value in pc.unique(values).to_pylist():
            if value is not None and not _ID_PATTERN.fullmatch(value):
                return repr(
                    value
                ), "an id: at most 200 letters, digits and ._=+-, of which the first is a letter or digit"
    if column.type == "json":
        for value in values.to_pylist():
            if value is not None and not isinstance(_parse_json(value), dict):
                return repr(value), "a JSON object of finite numbers and text"
    if column.type.startswith("map<"):
        for pairs in values.to_pylist():
            for name, value in pairs or ():
                if value is None or (
                    column.type == "map<string, json>" and _parse_json(value) is _INVALID_JSON
                ):
                    return f"{name}: {value!r}", f"{column.type} without nulls, of finite numbers and text"
    return None


def _parse_json(text: str) -> Any:
    """The value of JSON text; `_INVALID_JSON` if it is not JSON or has a number that is not finite."""
    try:
        return json.loads(text, parse_constant=_reject_number, parse_float=_finite_float)
    except (ValueError, RecursionError):
        return _INVALID_JSON


def _finite_float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _reject_number(text)


def _reject_number(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")
