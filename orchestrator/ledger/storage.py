"""Files under one root, on a local disk, S3 or GCS. Each file is read and written as a whole.

A local file is written under a temporary name that readers ignore, flushed to disk and renamed. In an object store a
file is written by one PUT.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import pyarrow.fs

from distill.errors import UsageError
from distill.retry import TRIES, Remedy, with_retries
from distill.uris import display_uri, is_uri, join_uri, lacks_place, open_filesystem

# Give up after this many retries caused by concurrent changes.
MAX_RETRIES = 100
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
_REMEDY = Remedy("choose another --output", "What is recorded stays; the same command goes on")

T = TypeVar("T")


class Storage:
    """The folder of a run. Instances can be pickled and shared between threads.

    Args:
        root: a local path, which is made absolute, or a URI that `pyarrow.fs` supports: `s3://`, `gs://`, `file://`.
            Nothing is opened or created before the first use.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        text = os.fspath(root)
        if not text or "\0" in text or lacks_place(text):
            shown = repr(text) if text else "empty"
            raise UsageError(f"the run's folder is {shown}, must be a path or a URI such as s3://bucket/run")
        self.root = text.rstrip("/") if is_uri(text) else str(Path(text).expanduser().absolute())
        self.before_write: Callable[[], None] | None = None
        """Called before every write of this object, for instance to check a lock. Copies in other processes have none."""
        self._answered = self._failed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.place()!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "before_write": None, "_answered": False, "_failed": False}

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        return open_filesystem(self.root, _REMEDY, self._tries)

    @property
    def _tries(self) -> int:
        # Checks before the start go on after an error. One wait for a store that never answers is enough for all of them.
        return TRIES if self._answered or not self._failed else 1

    @property
    def _is_local(self) -> bool:
        return isinstance(self._opened[0], pyarrow.fs.LocalFileSystem)

    def _path(self, path: str) -> str:
        parts = path.split("/")
        if not path or path.startswith("/") or ".." in parts:
            raise UsageError(f"path is '{path}', must be relative to the run and stay inside it")
        found = f"{self._opened[1]}/{path}"
        if self._is_local and not self._is_inside(found):
            raise UsageError(
                f"{found} leads to {os.path.realpath(found)}, must lie in the run's folder; remove the link, or put the "
                "files in its place"
            )
        return found

    def _is_inside(self, path: str) -> bool:
        """Whether a local path is in the run's folder after links are resolved."""
        root = os.path.realpath(self._opened[1])
        return os.path.commonpath([root, os.path.realpath(path)]) == root

    def place(self, path: str = "") -> str:
        """The location of the run, or of a file in it, for messages: without the credentials and options of a URI."""
        return display_uri(self.root, path)

    def below(self, folder: str) -> Self:
        """The same kind of storage for a folder inside this one."""
        return type(self)(join_uri(self.root, folder))

    def _retrying(self, path: str, action: Callable[[], T]) -> T:
        def answered() -> T:
            found = action()
            self._answered = True
            return found

        try:
            return with_retries(
                answered, place=self.place(path), is_local=self._is_local, remedy=_REMEDY, tries=self._tries
            )
        except UsageError:
            self._failed = True
            raise

    def read_bytes(self, path: str) -> bytes:
        """The contents of the file at `path`, relative to the root.

        Raises:
            FileNotFoundError: there is no such file.
            UsageError: the storage cannot be used. All methods retry as `distill.retry` describes.
        """

        def read() -> bytes:
            with self._opened[0].open_input_stream(self._path(path), compression=None) as stream:
                return bytes(stream.read())

        return self._retrying(path, read)

    @contextlib.contextmanager
    def local_file(self, path: str) -> Iterator[Path]:
        """A local path of the file at `path`, valid inside the `with` block: the file itself, or a copy of an object.

        For large files, which then need not be in memory. Raises as `read_bytes` does.
        """
        if self._is_local:
            place = Path(self._path(path))
            if not place.is_file():
                raise FileNotFoundError(place)
            yield place
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / path.rsplit("/", 1)[-1]
            copy.write_bytes(self.read_bytes(path))
            yield copy

    def sha256(self, path: str) -> str:
        """SHA-256 of the file at `path`, as hexadecimal digits. Raises as `read_bytes` does."""
        with self.local_file(path) as place, place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file atomically: a reader sees the old contents or the new ones, never a part of them."""
        self._check_before_write()
        self._retrying(path, lambda: self._write(self._path(path), data))

    def _write(self, target: str, data: bytes) -> None:
        if not self._is_local:
            # One write: closing the stream after an error between two writes would publish half of the object.
            with self._opened[0].open_output_stream(target, compression=None) as stream:
                stream.write(data)
            return
        folder, name = os.path.split(target)
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        _flush_folder(folder)

    def _check_before_write(self) -> None:
        check = self.before_write
        if check is not None:
            check()

    @contextlib.contextmanager
    def kernel_lock(self) -> Iterator[bool]:
        """Hold an exclusive kernel lock on the run's folder, which is created if needed.

        Yields False, without a lock, in an object store and on a file system that has no such locks.
        """
        if not self._is_local:
            yield False
            return

        def open_file() -> int:
            os.makedirs(self._opened[1], exist_ok=True)
            return os.open(os.path.join(self._opened[1], ".lock.tmp"), os.O_RDWR | os.O_CREAT, 0o666)

        descriptor = self._retrying("", open_file)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                has_locks = True
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                has_locks = False
            yield has_locks
        finally:
            os.close(descriptor)

    def modified(self, path: str) -> float | None:
        """When a file was written, in seconds since 1970 by the clock of the store; None if there is none."""
        info = self._retrying(path, lambda: self._opened[0].get_file_info(self._path(path)))
        return None if info.mtime_ns is None else info.mtime_ns / 1e9

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder at `path`."""
        info = self._retrying(path, lambda: self._opened[0].get_file_info(self._path(path)))
        return bool(info.type != pyarrow.fs.FileType.NotFound)

    def list(self, prefix: str = "") -> list[str]:
        """Paths of all files under the folder `prefix`, sorted, relative to the root; empty if there is no such folder."""
        root = self._opened[1]
        folder = self._path(prefix.rstrip("/")) if prefix else root
        found = (info for info in self._files(folder, recursive=True) if not _is_temporary(info.base_name))
        return sorted(info.path.removeprefix(root).lstrip("/") for info in found)

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with its contents. Does nothing if there is none."""
        self._check_before_write()
        filesystem, target = self._opened[0], self._path(path)

        def remove() -> None:
            kind = filesystem.get_file_info(target).type
            if kind == pyarrow.fs.FileType.Directory:
                filesystem.delete_dir(target)
            elif kind == pyarrow.fs.FileType.File:
                filesystem.delete_file(target)

        with contextlib.suppress(FileNotFoundError):
            self._retrying(path, remove)

    def _files(self, folder: str, recursive: bool) -> Sequence[pyarrow.fs.FileInfo]:
        selector = pyarrow.fs.FileSelector(folder, recursive=recursive, allow_not_found=True)
        for _ in range(MAX_RETRIES):
            # Despite `allow_not_found`, Arrow raises if a folder is created or deleted during the listing.
            with contextlib.suppress(FileNotFoundError):
                infos = self._retrying("", lambda: self._opened[0].get_file_info(selector))
                return [info for info in infos if info.type == pyarrow.fs.FileType.File]
        raise OSError(
            f"{folder} was created or deleted {MAX_RETRIES} times while it was listed; list it again"
        )


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _flush_folder(folder: str) -> None:
    """Make a rename durable: it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
