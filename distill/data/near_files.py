"""Messages about missing files that name the near one: another suffix, an ending, another folder, upper and lower case."""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from distill.data.name_lists import key_of
from distill.data.roots import File, files_below
from distill.errors import nearest

if TYPE_CHECKING:
    from distill.data.layout import Source

_MOST_COMPARED = 5000
"""Names that are compared letter by letter, which takes about a second."""


def unpaired(
    root: File, source: Source, unlabelled: list[str], unseen: list[str], lines: Mapping[str, int]
) -> str:
    """Message about keys without a label map, and keys without a picture.

    Args:
        root: root of the data set.
        source: folders and suffixes of the split.
        unlabelled: keys without a label map.
        unseen: keys without a picture.
        lines: line of each key in the list of the split; empty if there is no list.
    """
    split = source.listed or PurePosixPath(source.images).name
    neither = [key for key in unseen if lines and key in set(unlabelled)]
    images = (source.images, source.image_suffixes, source.image_setting)
    labels = (source.labels, (source.label_suffix,), source.label_setting)
    paired = _keys(root, images) & _keys(root, labels)
    parts, near = [], ""
    for keys, what, (folder, suffixes, setting) in (
        (neither, f"names in {split} have neither picture nor label map", images),
        ([key for key in unlabelled if key not in neither], f"pictures of {split} have no label map", labels),
        ([key for key in unseen if key not in neither], f"label maps of {split} have no picture", images),
    ):
        if keys:
            near = near_file(
                root / folder, keys[0], suffixes, setting, taken=lines if keys is neither else paired
            )
            line = f"'{keys[0]}' in line {lines[keys[0]]}: " if keys[0] in lines else ""
            missing = root / folder / f"{keys[0]}{suffixes[0]}"
            parts.append(f"{len(keys)} {what} (first: {line}{missing} is missing{near})")
    remedy = "" if near else " Unpack the archives or upload them again, or remove what has no partner."
    return "; ".join(parts) + "." + remedy


def _keys(root: File, place: tuple[str, tuple[str, ...], str]) -> set[str]:
    folder, suffixes, _ = place
    return {key_of(name, suffixes) for name, _ in files_below(root / folder, suffixes)}


def near_file(
    folder: File,
    key: str,
    suffixes: tuple[str, ...],
    setting: str = "",
    taken: Container[str] = (),
) -> str:
    """`, but NAME is there; REMEDY` for the file that is probably meant; empty if there is none.

    Args:
        folder: folder in which the file is missing.
        key: its name without suffix.
        suffixes: its suffixes.
        setting: setting of the suffix, if the config has one.
        taken: keys that are named elsewhere, so that a merely similar name is another file.
    """
    names = sorted(unicodedata.normalize("NFC", name) for name, _ in files_below(folder, ("",)))
    allowed = " or ".join(dict.fromkeys(suffixes))
    for name in names:
        stem, dot, kind = name[len(key) :].rpartition(".")
        if not name.startswith(key) or not dot:
            continue
        if not stem:
            return f", but {name} is there; it must be {allowed}: {_conversion(kind, suffixes)}"
        if setting and not stem[0].isalnum() and "/" not in stem:
            return f", but {name} is there; set {setting}: {_as_yaml(stem + dot + kind)}"
    base = key.rpartition("/")[2]
    for name in names:
        found = key_of(name, suffixes)
        if found.casefold() == key.casefold():
            return f", but {name} is there; use the same upper and lower case letters in both"
        if found.rpartition("/")[2] == base:
            return f", but {name} is there; use the same folders in both, or write '{found}' in the list"
    by_key = {key_of(name, suffixes): name for name in names[:_MOST_COMPARED]}
    by_key = {found: name for found, name in by_key.items() if found not in taken}
    equal = [found for found in by_key if key.isdecimal() and found.isdecimal() and int(found) == int(key)]
    close = equal or nearest(key, by_key, 1)
    return f", but {by_key[close[0]]} is there; use the same name in both" if close else ""


def _conversion(kind: str, suffixes: tuple[str, ...]) -> str:
    """What to do with a file of another kind."""
    if kind.lower() in ("jpg", "jpeg") and all(suffix.lower().endswith(".png") for suffix in suffixes):
        return "JPEG does not keep exact values, so export it again as PNG (or are pictures and label maps swapped?)"
    return f"convert the .{kind} files to PNG, without loss"


def _as_yaml(suffix: str) -> str:
    return suffix if suffix[0] in "_." else f'"{suffix}"'
