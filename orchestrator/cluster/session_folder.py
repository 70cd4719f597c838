"""A folder for the files of an embedded Ray in which its sockets have paths that the system takes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from distill.errors import UsageError

LONGEST_SOCKET = 107
"""Bytes in the path of a Unix socket."""
_BELOW = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store_1")
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


@contextmanager
def short_session_folder() -> Iterator[None]:
    """While the block runs, Ray's own folder is short enough: a new one if TMPDIR or RAY_TMPDIR is too long.

    Slurm sets a TMPDIR for each job that may be too long. The new folder is deleted at the end.

    Raises:
        UsageError: no folder with a short path can be written.
    """
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(name, "/tmp")
    if len(os.fsencode(os.path.abspath(folder))) + _BELOW <= LONGEST_SOCKET:
        yield
        return
    before, made = os.environ.get("RAY_TMPDIR"), _make_folder(name, folder)
    os.environ["RAY_TMPDIR"] = made
    try:
        yield
    finally:
        if before is None:
            del os.environ["RAY_TMPDIR"]
        else:
            os.environ["RAY_TMPDIR"] = before
        shutil.rmtree(made, ignore_errors=True)


def _make_folder(name: str, folder: str) -> str:
    for short in _SHORT_FOLDERS:
        try:
            return tempfile.mkdtemp(prefix="ray-", dir=short)
        except OSError:
            continue
    raise UsageError(
        f"{name} is {folder}: the sockets of Ray below it would have paths of more than {LONGEST_SOCKET} bytes; set "
        f"RAY_TMPDIR to a folder whose path has at most {LONGEST_SOCKET - _BELOW} bytes"
    )
