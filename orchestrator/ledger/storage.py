"""Small files under one root, on a local disk, S3 or GCS: written whole, read whole.

A file is written locally under a name that readers ignore, flushed to disk, then renamed; in an object store by one PUT.
"""

from __future__ import annotations

import contextlib
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
from distill.retry import Remedy, with_retries
from distill.uris import display_uri, is_uri, join_uri, open_filesystem

# Whoever looks again because others change what is there ends after so many times: a hundred in a row is a fault.
RESTARTS = 100
_REMEDY = Remedy("choose another --output", "What is recorded stays; the same command goes on")

T = TypeVar("T")


class Storage:
    """A run's folder.

    `root` is a local path (made absolute) or a URI that `pyarrow.fs` knows (`s3://`, `gs://`, `file://`).
    Nothing is opened or created before the first use. It can be pickled and shared between threads.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        text = os.fspath(root)
        if not text:
            raise UsageError("the run's folder is empty, must be a path or a URI such as s3://bucket/run")
        self.root = text.rstrip("/") if is_uri(text) else str(Path(text).expanduser().absolute())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.place()!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root}

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        return open_filesystem(self.root, _REMEDY)

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
        """Whether a path of a local run still lies in it once links are followed."""
        root = os.path.realpath(self._opened[1])
        return os.path.commonpath([root, os.path.realpath(path)]) == root

    def place(self, path: str = "") -> str:
        """Where the run, or a file in it, lies, for people: without a URI's credentials and options."""
        return display_uri(self.root, path)

    def below(self, folder: str) -> Self:
        """The same over a folder inside this one."""
        return type(self)(join_uri(self.root, folder))

    def _patiently(self, path: str, action: Callable[[], T]) -> T:
        return with_retries(action, place=self.place(path), is_local=self._is_local, remedy=_REMEDY)

    def read_bytes(self, path: str) -> bytes:
        """The contents of the file at `path`, relative to the root.

        Raises:
            FileNotFoundError: nothing is there.
            UsageError: the storage cannot be used; see `distill.retry`, which stands behind all methods here.
        """

        def read() -> bytes:
            with self._opened[0].open_input_stream(self._path(path), compression=None) as stream:
                return bytes(stream.read())

        return self._patiently(path, read)

    @contextlib.contextmanager
    def local_file(self, path: str) -> Iterator[Path]:
        """The file at `path` on a disk of this machine, for as long as the block lasts: itself, or a copy.

        For what is too large to be held in memory beside what is made of it. Raises as `read_bytes` does.
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
        """Hash of the file at `path`, in hexadecimal digits. Raises as `read_bytes` does."""
        with self.local_file(path) as place, place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file whole: a reader sees the old contents or the new ones, never a part."""
        self._patiently(path, lambda: self._write(self._path(path), data))

    def _write(self, target: str, data: bytes) -> None:
        if not self._is_local:
            # Everything in one write: closing after an error in between would publish half an object.
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

    def exists(self, path: str) -> bool:
        """Whether a file or folder stands at `path`."""
        info = self._patiently(path, lambda: self._opened[0].get_file_info(self._path(path)))
        return bool(info.type != pyarrow.fs.FileType.NotFound)

    def list(self, prefix: str = "") -> list[str]:
        """All files under the folder `prefix`, sorted, relative to the root; none where it does not exist."""
        root = self._opened[1]
        folder = self._path(prefix.rstrip("/")) if prefix else root
        found = (info for info in self._files(folder, recursive=True) if not _is_temporary(info.base_name))
        return sorted(info.path.removeprefix(root).lstrip("/") for info in found)

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with all in it. Nothing happens where nothing is."""
        filesystem, target = self._opened[0], self._path(path)

        def remove() -> None:
            kind = filesystem.get_file_info(target).type
            if kind == pyarrow.fs.FileType.Directory:
                filesystem.delete_dir(target)
            elif kind == pyarrow.fs.FileType.File:
                filesystem.delete_file(target)

        with contextlib.suppress(FileNotFoundError):
            self._patiently(path, remove)

    def _files(self, folder: str, recursive: bool) -> Sequence[pyarrow.fs.FileInfo]:
        selector = pyarrow.fs.FileSelector(folder, recursive=recursive, allow_not_found=True)
        for _ in range(RESTARTS):
            # Arrow raises, in spite of `allow_not_found`, where a folder appears or goes while it looks.
            with contextlib.suppress(FileNotFoundError):
                infos = self._patiently("", lambda: self._opened[0].get_file_info(selector))
                return [info for info in infos if info.type == pyarrow.fs.FileType.File]
        raise OSError(f"{folder} came and went {RESTARTS} times while it was listed; list it again")


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _flush_folder(folder: str) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
