"""Reads short text files of people: lists of names and class tables, in UTF-8 or UTF-16."""

from __future__ import annotations

import codecs
import glob
from pathlib import Path

from distill.data.roots import File, similar_sibling
from distill.errors import UsageError

_ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",  # it starts as that of UTF-16 does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte-order mark of a file -> its encoding."""


def read_text(path: File, what: str) -> str:
    """The text of a file: UTF-8, or UTF-16 or UTF-32 if it starts with a byte-order mark, as Windows PowerShell writes it.

    Args:
        path: the file.
        what: what it must be, for the message.

    Raises:
        UsageError: it is missing, is no file, or is in another encoding.
    """
    if isinstance(path, Path) and path.exists() and not path.is_file():  # opening a named pipe waits for ever
        raise UsageError(f"{path} is not a file; it must be {what}")
    try:
        data = path.read_bytes()
    except UsageError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        near = f".{_near(path)}" if isinstance(error, FileNotFoundError | NotADirectoryError) else ""
        raise UsageError(f"{path} cannot be read: {reason}; it must be {what}{near}") from error
    encoding = next((name for mark, name in _ENCODINGS.items() if data.startswith(mark)), "utf-8-sig")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{path}:{line}: holds the byte {data[error.start]:#04x}, must be UTF-8 text; save it as UTF-8"
        ) from None


def _near(path: File) -> str:
    """What is there instead of a missing file: a similar name, the same name one folder below, or a packed folder."""
    above = path.parent
    if not isinstance(above, Path):
        return similar_sibling(path)
    if above.is_file():
        return f" {above} is a file: unpack it, and give the folder"
    below = sorted(above.glob(f"*/{glob.escape(path.name)}"))
    if len(below) == 1:
        return f" {below[0]} is there: set root to {below[0].parent}"
    return similar_sibling(path)


def count_lines(path: File) -> int:
    """Number of lines with text, for estimates; 0 if the file cannot be read, which the check of data reports."""
    try:
        return sum(1 for line in read_text(path, "a list").splitlines() if line.strip())
    except UsageError:
        return 0
