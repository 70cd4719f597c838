"""A folder of files that never holds more bytes than its limit, shared by all processes of a machine."""

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
    0.9  # of the limit is left once room was made, so that the folder is not looked through for every file
)


class DiskCache:
    """Files by name, each written whole or not at all.

    Args:
        folder: where they lie; made when the first is put there.
        limit_bytes: most that they take together.
        suffix: how their names end.
        evicts: whether a full shelf gives up what was longest unused; otherwise it takes nothing more.
        protects_own: it gives up nothing that was used since this object was made. Who reads in a circle would
            otherwise always lose what comes next.
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
        """Where the file of a name (hexadecimal digits) lies, if it is there."""
        return self.folder / name[:2] / f"{name}{self._suffix}"

    def put(self, name: str, pieces: Sequence[bytes | memoryview]) -> bool:
        """Writes a file and says whether it stands; a full disk is as good as a full shelf."""
        path = self.path(name)
        part = self.folder / f"{os.getpid()}-{uuid.uuid4().hex}.part"
        try:
            if not self._reserve(part, sum(len(piece) for piece in pieces)):
                return False
            path.parent.mkdir(exist_ok=True)
            with part.open("r+b", buffering=0) as file:
                for piece in pieces:
                    file.write(piece)
                os.fsync(file.fileno())  # or a power cut could leave the name of a file without its bytes
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            return False
        return True

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Keeps other processes and threads from preparing the file of this name at the same time.

        Raises:
            OSError: the folder cannot be made or written.
        """
        place = self.folder / "locks"
        place.mkdir(parents=True, exist_ok=True)
        with (place / name[:2]).open("ab") as file:  # few locks for many files: they are never deleted
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            yield

    def _reserve(self, part: Path, size: int) -> bool:
        """Whether `size` more bytes fit; if so they are taken, as a file of that size."""
        with self._locked() as total:
            held = total.read() if self._opened else self._count()
            if held + size > self.limit_bytes and self._evicts and size <= self.limit_bytes:
                held = self._evict(size)
            fits = held + size <= self.limit_bytes
            total.write(held + size if fits else held)
            self._opened = True
            if fits:
                with part.open("wb") as file:
                    file.truncate(size)
        return fits

    def _count(self) -> int:
        """Bytes in the folder, without what processes that are no more began to write."""
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
        """Deletes what was longest unused until `size` more bytes fit and some to spare; returns what is left."""
        held = self._count()
        found = []
        for path in self.folder.rglob(f"*{self._suffix}"):
            with contextlib.suppress(FileNotFoundError):
                known = path.stat()
                if self._protected_since is None or known.st_mtime_ns < self._protected_since:
                    found.append((known.st_mtime_ns, path, known.st_size))
        wanted = min(self.limit_bytes - size, int(_FULL * self.limit_bytes))
        for _, path, freed in sorted(found):
            if held <= wanted:
                break
            path.unlink(missing_ok=True)
            held -= freed
        # All that is left is in use: the folder need not be looked through again.
        self._evicts = self._protected_since is None or held <= wanted
        return held

    @contextlib.contextmanager
    def _locked(self) -> Iterator[_Total]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"total-{self._suffix[1:]}").open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            yield _Total(file.fileno())


class _Total:
    """The bytes held, as all processes know them."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> int:
        return int(os.pread(self._descriptor, 20, 0) or b"0")

    def write(self, value: int) -> None:
        # a file opened for appending takes every write at its end: empty it first
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, str(value).encode())


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
