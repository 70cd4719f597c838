"""Reads the class table of a `folder` data set: a CSV file with a header, separated by commas, semicolons or tabs."""

from __future__ import annotations

import csv
import io
from typing import Any

from distill.data.roots import File
from distill.data.text_files import read_text
from distill.errors import UsageError

_COLOUR = ("red", "green", "blue")
_HEADER = "value,name or value,name,red,green,blue"
_NEAR = {"r", "g", "b", "rgb", "color", "colour", "hex"}
"""Columns of other tools with colours; without a word they would be lost."""
_LARGEST = 255


def read_class_table(path: File) -> list[dict[str, Any]]:
    """Classes of a table with the columns value, name and optionally red, green, blue; other columns are left out.

    Case and spaces around a column's name do not matter. A line without text is skipped.

    Raises:
        ValueError: the file cannot be read, or a cell is wrong, with file and line; pydantic adds the setting's name.
    """
    try:
        text = read_text(path, f"a CSV file with the header {_HEADER}, or list the classes here")
    except UsageError as error:
        raise ValueError(f"class table {error}") from None
    first, _, _ = text.partition("\n")
    separator = max(",;\t", key=first.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"class table {path} cannot be read: {error}; save it as plain CSV") from None
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    _check_header(path, first.strip(), header)
    return [
        _class(f"{path}:{number}", header, [cell.strip() for cell in row])
        for number, row in enumerate(rows[1:], 2)
        if any(cell.strip() for cell in row)
    ]


def _check_header(path: File, written: str, header: list[str]) -> None:
    colours = [column for column in header if column in _COLOUR]
    near = [column for column in header if column in _NEAR]
    if not {"value", "name"} <= set(header) or len(colours) not in (0, 3) or near:
        raise ValueError(
            f"{path}:1: the header is '{written}', must be {_HEADER}; write it as the first line"
        )
    if twice := [column for column in header if column and header.count(column) > 1]:
        raise ValueError(
            f"{path}:1: column '{twice[0]}' occurs twice in the header, must occur once; remove one"
        )


def _class(place: str, header: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) > len(header) and any(cells[len(header) :]):
        raise ValueError(
            f"{place}: has {len(cells)} cells, must have {len(header)} as the header; put a name with a separator in quotes"
        )
    row = dict(zip(header, cells + [""] * len(header), strict=False))
    if not row["value"] or not row["name"]:
        raise ValueError(
            f"{place}: value is '{row['value']}' and name is '{row['name']}', must both have text"
        )
    colour = [row.get(channel, "") for channel in _COLOUR]
    if any(colour) and not all(colour):
        raise ValueError(
            f"{place}: the colour is '{','.join(colour)}', must have red, green and blue; fill or empty all three"
        )
    return {
        "value": _byte(place, "value", row["value"]),
        "name": row["name"],
        "colour": [_byte(place, *cell) for cell in zip(_COLOUR, colour, strict=True)]
        if any(colour)
        else None,
    }


def _byte(place: str, column: str, cell: str) -> int:
    """A cell as a whole number from 0 to 255; spreadsheets write 7 as 7.0."""
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not value.is_integer() or not 0 <= value <= _LARGEST:
        raise ValueError(f"{place}: {column} is '{cell}', must be a whole number from 0 to {_LARGEST}")
    return int(value)
