"""Reads lists of pictures' names as people write them: with folders, absolute paths, backslashes, or the mask beside the picture."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from distill.data.roots import File
from distill.data.text_files import read_text
from distill.errors import UsageError

if TYPE_CHECKING:
    from distill.data.layout import Source

_WHAT = "UTF-8 text with a picture's name a line"
_HEADER = re.compile(
    r"(image|img|picture|photo|file|mask|label|annotation|segmentation|gt|x|y)?s?[_ ]?(path|name|file|filename|id)?s?",
    re.IGNORECASE,
)
"""Heads of columns in tables of pictures and masks."""
_LONGEST = 1000  # characters of a name
_DRIVE = re.compile(r"^[A-Za-z]:/")


def key_of(name: str, suffixes: tuple[str, ...]) -> str:
    """Key of a file: its path without the suffix, in Unicode's form NFC, so that a name is the same on every system."""
    lowered = name.lower()
    suffix = next((suffix for suffix in suffixes if lowered.endswith(suffix.lower())), "")
    return unicodedata.normalize("NFC", name[: len(name) - len(suffix)])


def read_keys(
    root: File, source: Source, listed: str, images: Collection[str], labels: Collection[str]
) -> dict[str, int]:
    """Keys in a list, with their lines.

    A line is a picture's name, relative to the folder of pictures, to the root, or to the list; or an absolute path below
    the root. The suffix may be missing. The mask's name may follow in a second column. A name that no file has is its own
    key. Lines that begin with `#` are comments, and the first line may name two columns.

    Args:
        root: root of the data set.
        source: folders and suffixes of pictures and masks.
        listed: the list, relative to the root.
        images: keys of all pictures.
        labels: keys of all masks.

    Raises:
        UsageError: the file cannot be read, names a picture twice, or has a second column that is not the mask.
    """
    path = root / listed
    known = {*images, *labels}
    keys: dict[str, int] = {}
    for number, line in enumerate(read_text(path, _WHAT).splitlines(), 1):
        entry = _unquoted(line)
        key = _found(entry, root, source, listed, known)
        if key is None:
            columns = _columns(entry)
            key = _found(columns[0], root, source, listed, images) if len(columns) > 1 else None
            if key is not None:
                _check_mask(f"{path}:{number}", key, columns, root, source, listed, labels)
        if key is None:
            if not entry or entry.startswith("#") or (not keys and _is_header(columns)):
                continue
            if len(entry) > _LONGEST:
                raise UsageError(
                    f"{path}:{number}: has {len(entry)} characters, must be a picture's name; write one picture a line"
                )
            key = key_of(entry, source.image_suffixes)
        if key in keys:
            raise UsageError(
                f"{path}:{number}: '{key}' is already in line {keys[key]}, must occur once; remove one"
            )
        keys[key] = number
    return keys


def _check_mask(
    place: str, key: str, columns: list[str], root: File, source: Source, listed: str, labels: Collection[str]
) -> None:
    """Raise UsageError if the columns after a picture's are not its mask alone."""
    mask = _found(columns[1], root, source, listed, labels)
    if len(columns) > 2 or mask is None:
        raise UsageError(
            f"{place}: '{columns[-1]}' follows the picture '{columns[0]}', must be its mask or nothing; "
            "remove that column, or write one picture a line"
        )
    if mask != key:
        ending = mask.removeprefix(key)
        setting = source.label_setting and ending != mask
        remedy = f"set {source.label_setting}: {ending}{source.label_suffix}" if setting else "rename one"
        raise UsageError(
            f"{place}: picture '{key}' is paired with the mask '{mask}', must have the same name; {remedy}"
        )


def _found(entry: str, root: File, source: Source, listed: str, known: Collection[str]) -> str | None:
    """The key that a line means, None if no file has it."""
    for name in _readings(entry, root, source, listed):
        for suffixes in (source.image_suffixes, (source.label_suffix,)):
            key = key_of(name, suffixes)
            if key in known:
                return key
    return None


def _readings(entry: str, root: File, source: Source, listed: str) -> Iterator[str]:
    """Names relative to the folder of pictures, or of masks, that a line may mean; the literal one first."""
    yield entry
    plain = entry.replace("\\", "/")
    if not plain:
        return
    name = posixpath.normpath(plain)
    is_absolute = name.startswith("/") or _DRIVE.match(name) is not None
    base = posixpath.normpath(root.name) if root.name else ""
    if not is_absolute:
        yield name
    for path in (name, posixpath.normpath(posixpath.join(posixpath.dirname(listed), name))):
        for folder in (source.images, source.labels):
            before, inside, after = f"/{path}".rpartition(f"/{posixpath.normpath(folder)}/")
            # Below another root a file of the same name may be another picture.
            if inside and (not before or posixpath.basename(before) == base):
                yield after


def _columns(entry: str) -> list[str]:
    """Columns that tabs, commas or semicolons separate, or otherwise spaces."""
    for separator in (r"\s*[\t,;]\s*", r"\s+"):
        columns = [_unquoted(column) for column in re.split(separator, entry)]
        if len(columns) > 1:
            return columns
    return [entry]


def _is_header(columns: list[str]) -> bool:
    return len(columns) == 2 and all(column and _HEADER.fullmatch(column) for column in columns)


def _unquoted(text: str) -> str:
    text = text.strip()
    quoted = len(text) > 1 and text[0] in "\"'" and text.find(text[0], 1) == len(text) - 1
    return text[1:-1].strip() if quoted else text
