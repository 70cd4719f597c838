"""Reads a data set's folder in an object store through an interface like `pathlib.Path`.

Each process lists a folder of a bucket once. A picture is downloaded when it is first read; later reads use the local
copy on the node. A copy is identified by the file's address, size and modification time in the listing, so a changed
file gets a new copy.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import posixpath
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar

from distill.data.remote_copies import RemoteCopies, RemoteCopiesConfig
from distill.errors import UsageError
from distill.redaction import redacted
from distill.retry import Remedy, with_retries
from distill.uris import display_uri, join_uri, open_filesystem

T = TypeVar("T")

_REMEDY = Remedy("give another root")
_PARALLEL = 16  # concurrent downloads: a store answers many requests as fast as one
_PREFETCH = 64  # groups of files downloaded ahead


class FileStat(NamedTuple):
    """Size in bytes and modification time in nanoseconds since 1970, as in a listing."""

    st_size: int
    st_mtime_ns: int


class _Bucket:
    """A bucket's address and file system, with this process's cache of listings and small files."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._listed: dict[str, tuple[tuple[str, FileStat], ...]] = {}
        self._texts: dict[str, bytes] = {}
        self._failure: str | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return _Bucket, (self.address,)

    @functools.cached_property
    def _opened(self) -> tuple[Any, str]:
        return open_filesystem(self.address, _REMEDY)

    def _with_retries(self, path: str, action: Callable[[Any, str], T]) -> T:
        filesystem, root = self._opened
        target = posixpath.normpath(f"{root}/{path}")
        return with_retries(
            lambda: action(filesystem, target),
            place=display_uri(self.address, path),
            is_local=False,
            remedy=_REMEDY,
        )

    def files(self, folder: str) -> tuple[tuple[str, FileStat], ...]:
        """All files below a folder with their relative paths; listed once per process."""
        from pyarrow.fs import FileSelector

        def find(filesystem: Any, target: str) -> tuple[tuple[str, FileStat], ...]:
            # a missing folder and a missing bucket both raise; `with_retries` distinguishes them
            found = filesystem.get_file_info(FileSelector(target, recursive=True))
            cut = len(target) + 1
            return tuple((info.path[cut:], _stat_of(info)) for info in found if info.is_file)

        if folder not in self._listed:
            try:
                self._listed[folder] = self._or_raise_again(lambda: self._with_retries(folder, find))
            except FileNotFoundError:
                self._listed[folder] = ()
        return self._listed[folder]

    def children(self, folder: str) -> list[str]:
        """Names of the files and folders in a folder."""
        from pyarrow.fs import FileSelector

        infos = self._with_retries(folder, lambda fs, target: fs.get_file_info(FileSelector(target)))
        return [info.base_name for info in infos]

    def info(self, path: str) -> Any:
        """The `pyarrow.fs.FileInfo` of a file or folder."""
        return self._with_retries(path, lambda filesystem, target: filesystem.get_file_info(target))

    def read(self, path: str) -> bytes:
        """A file's bytes; raises FileNotFoundError if it does not exist."""

        def fetch(filesystem: Any, target: str) -> bytes:
            with filesystem.open_input_stream(target, compression=None) as stream:
                return bytes(stream.read())

        try:
            return self._with_retries(path, fetch)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "it is not in its bucket") from None

    def read_once(self, path: str) -> bytes:
        """A small file's bytes, cached by this process."""
        if path not in self._texts:
            self._texts[path] = self._or_raise_again(lambda: self.read(path))
        return self._texts[path]

    def _or_raise_again(self, action: Callable[[], T]) -> T:
        """Run an action; after one failure raise the same error at once, without further retries."""
        if self._failure is not None:
            raise UsageError(self._failure)
        try:
            return action()
        except UsageError as error:
            self._failure = str(error)
            raise


class BucketPath:
    """A folder or file in an object store, with the part of `pathlib.Path` that reading a data set needs.

    `str()` gives the address without credentials and options; `address` is the complete URI. Transient storage errors
    are retried; others raise `UsageError` (see `distill.retry`).
    """

    __slots__ = ("_bucket", "_copies", "_known", "_path")

    def __init__(self, address: str) -> None:
        place, mark, options = address.partition("?")
        self._fill(_Bucket(place.rstrip("/") + mark + options), "", None, RemoteCopies(RemoteCopiesConfig()))

    def _fill(self, bucket: _Bucket, path: str, known: FileStat | None, copies: RemoteCopies) -> BucketPath:
        self._bucket, self._path, self._known, self._copies = bucket, path, known, copies
        return self

    def _other(self, path: str, known: FileStat | None = None) -> BucketPath:
        return BucketPath.__new__(BucketPath)._fill(self._bucket, path, known, self._copies)

    def with_copies(self, copies: RemoteCopiesConfig) -> BucketPath:
        """The same path with another folder for local copies; listings stay cached."""
        return BucketPath.__new__(BucketPath)._fill(
            self._bucket, self._path, self._known, RemoteCopies(copies)
        )

    @property
    def address(self) -> str:
        """The complete URI, with credentials and options."""
        return join_uri(self._bucket.address, self._path) if self._path else self._bucket.address

    def __str__(self) -> str:
        return display_uri(self._bucket.address, self._path)

    def __repr__(self) -> str:
        return f"BucketPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __truediv__(self, path: str) -> BucketPath:
        return self._other(posixpath.normpath(posixpath.join(self._path, path)))

    def absolute(self) -> BucketPath:
        """The path itself, which is always absolute."""
        return self

    def as_uri(self) -> str:
        """A URI that identifies the path, without credentials."""
        return redacted(self.address, {})

    @property
    def name(self) -> str:
        """Last part of the path."""
        return posixpath.basename(self._path or display_uri(self._bucket.address))

    @property
    def parent(self) -> BucketPath:
        """The parent folder; the root of a bucket is its own parent."""
        if self._path:
            return self._other(posixpath.dirname(self._path))
        place, mark, options = self._bucket.address.partition("?")
        above = place.rpartition("/")[0]
        return self if above.endswith("/") else BucketPath(above + mark + options)

    def is_dir(self) -> bool:
        """Whether the folder exists; in most stores, whether it contains anything."""
        from pyarrow.fs import FileType

        return bool(self._bucket.info(self._path).type == FileType.Directory)

    def iterdir(self) -> Iterator[BucketPath]:
        """Files and folders in this folder."""
        return (self / name for name in self._bucket.children(self._path))

    def files(self) -> Iterator[tuple[str, BucketPath]]:
        """All files below this folder with their relative paths; none if it does not exist."""
        for name, known in self._bucket.files(self._path):
            yield name, self._other(posixpath.join(self._path, name), known)

    def read_bytes(self) -> bytes:
        """A small file's bytes, downloaded once per process."""
        return self._bucket.read_once(self._path)

    def stat(self) -> FileStat:
        """Size and modification time as in the listing; raises FileNotFoundError if the file does not exist."""
        if self._known is None:
            info = self._bucket.info(self._path)
            if not info.is_file:
                raise FileNotFoundError(errno.ENOENT, "it is not in its bucket")
            self._known = _stat_of(info)
        return self._known

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        """Open the local copy of the file, downloading it if there is none.

        Raises:
            OSError: the file was deleted or changed after the bucket was listed.
        """
        known = self.stat()
        version = f"{self.as_uri()}\0{known.st_size}\0{known.st_mtime_ns}"
        name = hashlib.sha256(version.encode()).hexdigest()[:32]
        return self._copies.open(name, known.st_size, self._fetch)

    def _fetch(self) -> bytes:
        data = self._bucket.read(self._path)
        size = self.stat().st_size
        if len(data) != size:
            raise OSError(errno.ESTALE, f"it has {len(data)} bytes and had {size} when its bucket was listed")
        return data


def prefetched(groups: Iterable[tuple[T, tuple[object, ...]]]) -> Iterator[T]:
    """Yield the first element of each (element, files) group in order, downloading bucket files ahead.

    Raises:
        UsageError: the storage cannot be used. Errors of single files are raised when they are read.
    """
    waiting: list[tuple[T, list[Future[None]]]] = []
    pool = ThreadPoolExecutor(_PARALLEL)  # starts no thread before it must
    try:
        for first, files in groups:
            fetches = [pool.submit(_prepare, file) for file in files if isinstance(file, BucketPath)]
            waiting.append((first, fetches))
            if len(waiting) > (_PREFETCH if fetches else 0):
                yield _awaited(*waiting.pop(0))
        while waiting:
            yield _awaited(*waiting.pop(0))
    finally:
        pool.shutdown(cancel_futures=True)


def _awaited(first: T, fetches: list[Future[None]]) -> T:
    for fetch in fetches:
        fetch.result()
    return first


def _prepare(file: BucketPath) -> None:
    try:
        file.open().close()
    except OSError:
        return


def _stat_of(info: Any) -> FileStat:
    return FileStat(int(info.size or 0), int(info.mtime_ns or 0))
