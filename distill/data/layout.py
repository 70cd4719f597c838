"""Layouts of data sets on disk, and pairs of pictures and label files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from distill.data.labels import LabelMap
from distill.data.name_lists import key_of, read_keys
from distill.data.near_files import unpaired
from distill.data.roots import File, files_below, similar_sibling
from distill.errors import UsageError

_SHOWN = 8


@dataclass(frozen=True)
class Source:
    """Where the pictures and label files of one published split are, relative to the root.

    A picture and its label file have the same key: the path below their folder without the suffix (`key_of`).

    Attributes:
        images: folder of the pictures.
        labels: folder of the label files.
        image_suffixes: suffixes of the pictures.
        label_suffix: suffix of the label files.
        image_setting: setting of the config for `image_suffixes`, for messages; empty if there is none.
        label_setting: the same for `label_suffix`.
        listed: file with the keys of this split, one per line; None uses all.
        unlisted: file with the keys of another split; this split has all other label files.
    """

    images: str
    labels: str
    image_suffixes: tuple[str, ...] = (".jpg",)
    label_suffix: str = ".png"
    image_setting: str = ""
    label_setting: str = ""
    listed: str | None = None
    unlisted: str | None = None


@dataclass(frozen=True)
class Layout:
    """A data set as published.

    Attributes:
        title: its name in papers.
        licence: name and page of its licence.
        expected: expected content of the root, in one line.
        label_map: meaning of the values in its label files.
        train: its train split.
        tune: its tune split; None if one is taken out of train.
        test: the split that papers report.
        group_of: maps a key to its group, which is held out as a whole; the key itself if there are no groups.
        group_words: the word for a group in messages, singular and plural.
        named_groups: groups that the config names for the tune split.
    """

    title: str
    licence: str
    expected: str
    label_map: LabelMap
    train: Source
    test: Source
    tune: Source | None = None
    group_of: Callable[[str], str] = str
    group_words: tuple[str, str] = ("picture", "pictures")
    named_groups: tuple[str, ...] | None = None


class Pair(NamedTuple):
    """A picture and its label file."""

    image: File
    labels: File
    key: str


def find_pairs(root: File, layout: Layout, source: Source) -> list[Pair]:
    """All labelled pictures of a source, sorted by key.

    Raises:
        UsageError: a folder or list is missing, there are no pictures, or a picture and label file do not pair up.
    """
    images = _files(root, source.images, source.image_suffixes, layout, source.image_setting)
    labels = _files(root, source.labels, (source.label_suffix,), layout, source.label_setting)
    lines: dict[str, int] = {}
    if source.listed is not None:
        lines = read_keys(root, source, source.listed, images, labels)
        keys = set(lines)
    elif source.unlisted is not None:
        keys = labels.keys() - read_keys(root, source, source.unlisted, images, labels).keys()
    else:
        keys = images.keys() | labels.keys()
    unlabelled, unseen = sorted(keys - labels.keys()), sorted(keys - images.keys())
    if unlabelled or unseen:
        raise UsageError(unpaired(root, source, unlabelled, unseen, lines))
    if not keys:
        named = (
            f"{root / source.listed} names none"
            if source.listed
            else f"there are none in {root / source.images}"
        )
        raise UsageError(f"no pictures: {named}, must be at least one; {_remedy(layout)}")
    return [Pair(images[key], labels[key], key) for key in sorted(keys)]


def count_files(root: File, folder: str, suffixes: tuple[str, ...]) -> int:
    """Number of files with these suffixes below a folder; 0 if it does not exist."""
    return sum(1 for _ in files_below(root / folder, suffixes))


def _files(
    root: File, folder: str, suffixes: tuple[str, ...], layout: Layout, setting: str
) -> dict[str, File]:
    """Files below a folder by key."""
    found: dict[str, File] = {}
    for name, file in files_below(root / folder, suffixes):
        key = key_of(name, suffixes)
        if key in found:
            choose = f", or set {setting} to one suffix" if setting else ""
            raise UsageError(
                f"{file} and {found[key]} have the same name without suffix, must differ; rename or remove one{choose}"
            )
        found[key] = file
    if not found:
        _refuse_missing(root, folder, layout)
    return found


def _refuse_missing(root: File, folder: str, layout: Layout) -> None:
    """Raise UsageError naming the first missing level of a folder's path."""
    parts = PurePosixPath(folder).parts
    for level in (root, *(root / "/".join(parts[:n]) for n in range(1, len(parts) + 1))):
        if not level.is_dir():
            found = (
                "is a file; unpack it" if _is_file(level) else f"does not exist; {_neighbours(level.parent)}"
            )
            raise UsageError(f"folder {level} {found}.{similar_sibling(level)} {_remedy(layout)}")


def _is_file(path: File) -> bool:
    return isinstance(path, Path) and path.is_file()


def _neighbours(parent: File) -> str:
    if not parent.is_dir():
        return f"{parent} does not exist either"
    found = sorted(child.name for child in parent.iterdir())
    return f"{parent} holds {', '.join(found[:_SHOWN]) or 'nothing'}" + (" …" if len(found) > _SHOWN else "")


def _remedy(layout: Layout) -> str:
    return f"Expected {layout.title} as {layout.expected}"
