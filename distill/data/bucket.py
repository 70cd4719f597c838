"""A data set's folder in an object store, read as if it lay on a disk.

A bucket is listed once by each process that asks, folder by folder. A picture is fetched when it is first read, and
read from the node's copy from then on. Which copy belongs to a picture follows from its address, size and time of
change in the listing: one that was changed since has another copy.
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
_PARALLEL = 16  # a store answers many requests as fast as one
_PREFETCH = 64


class FileStat(NamedTuple):
    """What a listing tells of a file: bytes, and nanoseconds since 1970."""

    st_size: int
    st_mtime_ns: int


class _Bucket:
    """One address: its file system, and what this process has listed and read of it."""

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
        """All files below a folder, by their path below it; one request for a thousand, once."""
        from pyarrow.fs import FileSelector

        def find(filesystem: Any, target: str) -> tuple[tuple[str, FileStat], ...]:
            # a folder that is not there raises as a bucket that is not there does, which is told apart
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
        """Names of files and folders in a folder."""
        from pyarrow.fs import FileSelector

        infos = self._with_retries(folder, lambda fs, target: fs.get_file_info(FileSelector(target)))
        return [info.base_name for info in infos]

    def info(self, path: str) -> Any:
        """The `pyarrow.fs.FileInfo` of a file or folder."""
        return self._with_retries(path, lambda filesystem, target: filesystem.get_file_info(target))

    def read(self, path: str) -> bytes:
        """A file's bytes. Raises FileNotFoundError where it is none."""

        def fetch(filesystem: Any, target: str) -> bytes:
            with filesystem.open_input_stream(target, compression=None) as stream:
                return bytes(stream.read())

        try:
            return self._with_retries(path, fetch)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "it is not in its bucket") from None

    def read_once(self, path: str) -> bytes:
        """A small file's bytes, which this process keeps."""
        if path not in self._texts:
            self._texts[path] = self._or_raise_again(lambda: self.read(path))
        return self._texts[path]

    def _or_raise_again(self, action: Callable[[], T]) -> T:
        """The action's outcome; a store that failed once is not waited for again, folder by folder."""
        if self._failure is not None:
            raise UsageError(self._failure)
        try:
            return action()
        except UsageError as error:
            self._failure = str(error)
            raise


class BucketPath:
    """A folder or file in an object store: as much of `pathlib.Path` as reading a data set takes.

    Its text is for people, without credentials and options; `address` is the whole. Storage that stumbles is asked
    again; storage that cannot be used raises `UsageError` wherever it is asked (see `distill.retry`).
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
        """The same place, whose pictures are copied to another folder; what was listed stays known."""
        return BucketPath.__new__(BucketPath)._fill(
            self._bucket, self._path, self._known, RemoteCopies(copies)
        )

    @property
    def address(self) -> str:
        """The whole URI, credentials and options included."""
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
        """This very place."""
        return self

    def as_uri(self) -> str:
        """What tells this place from all others, without credentials."""
        return redacted(self.address, {})

    @property
    def name(self) -> str:
        """The last part of the path."""
        return posixpath.basename(self._path or display_uri(self._bucket.address))

    @property
    def parent(self) -> BucketPath:
        """The folder that it lies in; a bucket's own is itself."""
        if self._path:
            return self._other(posixpath.dirname(self._path))
        place, mark, options = self._bucket.address.partition("?")
        above = place.rpartition("/")[0]
        return self if above.endswith("/") else BucketPath(above + mark + options)

    def is_dir(self) -> bool:
        """Whether a folder is there: in most stores, whether anything lies below it."""
        from pyarrow.fs import FileType

        return bool(self._bucket.info(self._path).type == FileType.Directory)

    def iterdir(self) -> Iterator[BucketPath]:
        """What lies in a folder."""
        return (self / name for name in self._bucket.children(self._path))

    def files(self) -> Iterator[tuple[str, BucketPath]]:
        """All files below a folder, each with its path below it; none where there is no folder."""
        for name, known in self._bucket.files(self._path):
            yield name, self._other(posixpath.join(self._path, name), known)

    def read_text(self, encoding: str) -> str:
        """A small file's text, which is fetched once by each process."""
        return self._bucket.read_once(self._path).decode(encoding)

    def stat(self) -> FileStat:
        """Size and time of change, as they were when the bucket was listed. Raises FileNotFoundError."""
        if self._known is None:
            info = self._bucket.info(self._path)
            if not info.is_file:
                raise FileNotFoundError(errno.ENOENT, "it is not in its bucket")
            self._known = _stat_of(info)
        return self._known

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        """The file's bytes, from the copy on this node, which is fetched where there is none.

        Raises:
            OSError: it is not there any more, or was changed since the bucket was listed.
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
    """The first of each group, in order; files of a bucket among the others are fetched before their turn comes.

    Raises:
        UsageError: the storage cannot be used. What is wrong with a single file is left to whoever reads it.
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
