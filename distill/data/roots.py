"""Roots of data sets: a folder of this machine or of a bucket, with one interface for both."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator

from distill.data.bucket import BucketPath
from distill.data.remote_copies import RemoteCopiesConfig
from distill.errors import UsageError, nearest
from distill.setting_paths import PathSetting
from distill.uris import is_uri, lacks_place
from distill.validation_text import written as as_text

File = Path | BucketPath
"""A file or folder of a data set."""


def as_root(written: object) -> File:
    """Parse the root of a data set: a path, in which `~` is the home folder, or an address such as s3://bucket/folder.

    Raises:
        ValueError: it is neither; pydantic adds the setting's name.
    """
    if isinstance(written, File):
        return written
    if not isinstance(written, str) or not written:
        raise ValueError(f"is {as_text(written)}, must be a folder, or an address such as s3://bucket/folder")
    if not is_uri(written):
        try:
            return Path(written).expanduser()
        except RuntimeError:  # ~NAME of an unknown person
            raise ValueError(f"is {written!r}, must be a folder; write it without ~") from None
    if lacks_place(written):
        raise ValueError(
            f"is {written!r}, which has no bucket, must be an address such as s3://bucket/folder"
        )
    if written.startswith("file://"):
        return Path(urllib.parse.unquote(urllib.parse.urlsplit(written).path))
    return BucketPath(written)


def written_root(root: File) -> str:
    """The text from which `as_root` creates this root, with credentials."""
    return root.address if isinstance(root, BucketPath) else str(root)


Root = Annotated[
    File,
    PlainValidator(as_root),
    PlainSerializer(written_root, return_type=str, when_used="json"),
    PathSetting(),
]
"""Field type of a data set's root in a config."""


_LITTER = {"@eaDir", "__MACOSX"}
"""Folders of thumbnails and of attributes, which Synology and macOS write."""


def with_copies(root: File, copies: RemoteCopiesConfig | None) -> File:
    """The root, with this config for local copies if it is in a bucket."""
    return root.with_copies(copies) if isinstance(root, BucketPath) and copies is not None else root


def is_remote(root: File) -> bool:
    """Whether reading a file needs a download."""
    return isinstance(root, BucketPath)


def similar_sibling(path: File) -> str:
    """` Did you mean NAME?` for a missing file or folder with a similar name beside it; empty if there is none."""
    if not path.parent.is_dir():
        return ""
    found = sorted(child.name for child in path.parent.iterdir())
    same = [name for name in found if name.casefold() == path.name.casefold()]
    close = same or nearest(path.name, found, 1)
    return f" Did you mean '{close[0]}'?" if close else ""


def files_below(folder: File, suffixes: tuple[str, ...]) -> Iterator[tuple[str, File]]:
    """Files with these suffixes below a folder, with their relative paths; none if it does not exist.

    Upper and lower case of a suffix are the same. What systems write beside pictures is left out: files `._NAME`
    (macOS), hidden folders and thumbnails. A link to a folder that contains the link is not followed.

    Raises:
        UsageError: a folder may not be read.
    """
    endings = tuple(suffix.lower() for suffix in suffixes)
    found = folder.files() if isinstance(folder, BucketPath) else _walk(folder, "", frozenset())
    for name, file in found:
        if name.lower().endswith(endings) and not _is_litter(name):
            yield name, file


def _walk(folder: Path, below: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, Path]]:
    """All files below a folder that is none of the folders `above`, given as (device, inode)."""
    try:
        known = folder.stat()
        place = (known.st_dev, known.st_ino)
        entries = [] if place in above else sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UsageError(
            f"folder {folder} cannot be read: {error.strerror}; give a folder that you may read"
        ) from error
    for entry in entries:
        if _is_folder(entry):
            yield from _walk(folder / entry.name, f"{below}{entry.name}/", above | {place})
        elif entry.is_symlink() or entry.is_file():  # no pipe; a link to nothing is reported when it is read
            yield below + entry.name, folder / entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one. A link to itself is neither folder nor file."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_litter(name: str) -> bool:
    *folders, file = name.split("/")
    return file.startswith("._") or any(part.startswith(".") or part in _LITTER for part in folders)
