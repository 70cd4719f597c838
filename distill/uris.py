"""Addresses of storage: a local path, or a URI of `pyarrow.fs` such as s3://bucket/folder?region=eu-west-1."""

from __future__ import annotations

import re
from typing import Any

from distill.errors import UsageError
from distill.redaction import redacted
from distill.retry import TRIES, Remedy, with_retries

_CREDENTIALS = re.compile(r"^(\w[\w+.-]*://)(?:[^/]*|[^/]*:.*)@")


def is_uri(address: str) -> bool:
    """Whether an address is a URI rather than a local path."""
    return "://" in address


def lacks_place(address: str) -> bool:
    """Whether an address is a URI without a bucket or path, such as `s3://`."""
    return is_uri(address) and not is_uri(address.rstrip("/"))


def display_uri(address: str, path: str = "") -> str:
    """An address, optionally of a file below it, for messages: without credentials and options."""
    if is_uri(address):
        address = _CREDENTIALS.sub(r"\1", address.split("?")[0])
    return f"{address}/{path}" if path else address


def join_uri(address: str, path: str) -> str:
    """The address of a file or folder below another; a URI's options are preserved."""
    place, mark, options = address.partition("?") if is_uri(address) else (address, "", "")
    return f"{place}/{path}{mark}{options}"


def open_filesystem(address: str, remedy: Remedy, tries: int = TRIES) -> tuple[Any, str]:
    """The `pyarrow.fs` file system of an address, and the path in it. See `with_retries`.

    Raises:
        UsageError: the address is invalid, or its store cannot be reached or refuses access.
    """
    import pyarrow as pa
    import pyarrow.fs

    if not is_uri(address):
        return pyarrow.fs.LocalFileSystem(), address
    uri = address
    if uri.startswith("s3://") and "allow_delayed_open" not in uri:
        # Small objects are then written by one PUT instead of a multipart upload of three requests.
        uri += ("&" if "?" in uri else "?") + "allow_delayed_open=true"

    def find() -> tuple[Any, str]:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
        return filesystem, path.rstrip("/")

    try:
        # this may send a request: without a region pyarrow looks up the bucket's
        return with_retries(find, place=display_uri(address), is_local=False, remedy=remedy, tries=tries)
    except UsageError:
        raise
    except (pa.ArrowInvalid, ValueError) as error:
        raise UsageError(
            f"'{display_uri(address)}' cannot be opened: {redacted(str(error))}. Use a local path, s3://bucket/folder or gs://bucket/folder."
        ) from error
