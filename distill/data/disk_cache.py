"""A folder of cached files with a size limit, shared by all processes of a machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

_PART = re.compile(r"^(\d+)-[0-9a-f]{32}\.part$")
_FULL = (
    0.9  # share of the limit that is left after an eviction, so that the folder is not scanned for every file
)
_SPARE_SHARE, _SPARE_BYTES = 0.1, 2 * 10**9


class DiskCache:
    """A cache of files by name; each file is written atomically.

    A tenth of the file system is left free, at most 2 GB: a full one would fail the writing of checkpoints, and stop the
    loader processes that send batches through /dev/shm.

    Args:
        folder: the folder, which is created for the first file.
        limit_bytes: maximum total size of the files.
        suffix: suffix of the files' names.
        evicts: delete the least recently used files when the cache is full; otherwise new files are refused.
        protects_own: never delete files used after this object was created. Without it, a cyclic reader would always
            delete the file that it reads next.
    """

    def __init__(
        self, folder: Path, limit_bytes: int, suffix: str, *, evicts: bool, protects_own: bool = False
    ) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._suffix = suffix
        self._evicts = evicts
        self._protected_since = time.time_ns() if protects_own else None
        self._opened = False

    def path(self, name: str) -> Path:
        """Path of the file with this name (hexadecimal digits), whether it exists or not."""
        return self.folder / name[:2] / f"{name}{self._suffix}"

    def put(self, name: str, pieces: Sequence[bytes | memoryview]) -> bool:
        """Write a file, in place of one of the same name; returns False if the cache or the disk is full or not writable."""
        path = self.path(name)
        part = self.folder / f"{os.getpid()}-{uuid.uuid4().hex}.part"
        try:
            if not self._reserve(path, part, sum(len(piece) for piece in pieces)):
                return False
            path.parent.mkdir(exist_ok=True)
            with part.open("r+b", buffering=0) as file:
                for piece in pieces:
                    file.write(piece)
                os.fsync(file.fileno())  # without it a power failure could leave an empty file
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            return False
        return True

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock, so that only one process or thread prepares the file of this name.

        Raises:
            OSError: the folder cannot be created or written.
        """
        place = self.folder / "locks"
        place.mkdir(parents=True, exist_ok=True)
        with (place / name[:2]).open("ab") as file:  # a few locks for many files; they are never deleted
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            yield

    def _reserve(self, path: Path, part: Path, size: int) -> bool:
        """Whether `size` bytes fit in place of those at `path`; if so, reserve them by a file of that size."""
        with self._locked() as total:
            held = total.read() if self._opened else self._count()
            with contextlib.suppress(FileNotFoundError):
                replaced = path.stat().st_size
                path.unlink()
                held -= replaced
            if held + size > self.limit_bytes and self._evicts and size <= self.limit_bytes:
                held = self._evict(size)
            fits = held + size <= self.limit_bytes and _leaves_room(self.folder, size)
            total.write(held + size if fits else held)
            self._opened = True
            if fits:
                with part.open("wb") as file:
                    file.truncate(size)
        return fits

    def _count(self) -> int:
        """Total size of the files; deletes partial files of processes that have ended."""
        held = 0
        for parent, _, names in os.walk(self.folder):
            for name in names:
                begun = _PART.match(name)
                if begun and not _is_running(int(begun[1])):
                    Path(parent, name).unlink(missing_ok=True)
                elif begun or name.endswith(self._suffix):
                    with contextlib.suppress(FileNotFoundError):
                        held += Path(parent, name).stat().st_size
        return held

    def _evict(self, size: int) -> int:
        """Delete the least recently used files until `size` more bytes fit with some reserve; returns the total left."""
        held = self._count()
        found = []
        for path in self.folder.rglob(f"*{self._suffix}"):
            with contextlib.suppress(FileNotFoundError):
                known = path.stat()
                if self._protected_since is None or known.st_mtime_ns < self._protected_since:
                    found.append((known.st_mtime_ns, path, known.st_size))
        target = min(self.limit_bytes - size, int(_FULL * self.limit_bytes))
        for _, path, freed in sorted(found):
            if held <= target:
                break
            path.unlink(missing_ok=True)
            held -= freed
        # If all remaining files are in use, do not scan the folder again.
        self._evicts = self._protected_since is None or held <= target
        return held

    @contextlib.contextmanager
    def _locked(self) -> Iterator[_Total]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"total-{self._suffix[1:]}").open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            yield _Total(file.fileno())


class _Total:
    """The total size of the files, in a file shared by all processes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> int:
        return int(os.pread(self._descriptor, 20, 0) or b"0")

    def write(self, value: int) -> None:
        # a file opened for appending writes at its end, so truncate it first
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, str(value).encode())


def _leaves_room(folder: Path, size: int) -> bool:
    """Whether the file system has the free space that is left to others, after `size` more bytes."""
    found = os.statvfs(folder)
    spare = min(_SPARE_SHARE * found.f_blocks * found.f_frsize, _SPARE_BYTES)
    return not found.f_blocks or found.f_bavail * found.f_frsize - size >= spare


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
