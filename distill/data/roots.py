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
from distill.setting_paths import PathSetting
from distill.uris import is_uri

File = Path | BucketPath
"""A file or folder of a data set."""


def as_root(written: object) -> File:
    """Parse the root of a data set: a path, or an address such as s3://bucket/folder.

    Raises:
        ValueError: it is neither; pydantic adds the setting's name.
    """
    if isinstance(written, File):
        return written
    if not isinstance(written, str) or not written:
        raise ValueError(f"is {written!r}, must be a folder, or an address such as s3://bucket/folder")
    if not is_uri(written):
        return Path(written)
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


def with_copies(root: File, copies: RemoteCopiesConfig | None) -> File:
    """The root, with this config for local copies if it is in a bucket."""
    return root.with_copies(copies) if isinstance(root, BucketPath) and copies is not None else root


def is_remote(root: File) -> bool:
    """Whether reading a file needs a download."""
    return isinstance(root, BucketPath)


def files_below(folder: File, suffixes: tuple[str, ...]) -> Iterator[tuple[str, File]]:
    """Files with these suffixes below a folder, with their relative paths; none if it does not exist."""
    if isinstance(folder, BucketPath):
        yield from ((name, file) for name, file in folder.files() if name.endswith(suffixes))
        return
    for parent, _, names in os.walk(folder, followlinks=True):
        place = Path(parent)
        below = "" if place == folder else f"{place.relative_to(folder).as_posix()}/"
        for name in names:
            if name.endswith(suffixes):
                yield below + name, place / name
