"""Decoded pictures in memory-mapped files, shared by all processes of a machine.

A picture is decoded once and then read where it lies: a crop touches the pages that it shows, and nothing else is read
or copied. In a folder in memory (/dev/shm) the files are shared memory, on a local disk the operating system keeps as
many of their pages in memory as it can. What stands in the cache are the very bytes that decoding gives.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import re
import struct
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.data.dataset import Sample
from distill.data.labels import LabelMap
from distill.data.layout import Pair

_HEADER = struct.Struct("<8sQQ40x")  # 64 bytes, so that pixels start on a cache line
_MAGIC = b"pixels-1"
_PART = re.compile(r"^(\d+)-[0-9a-f]{32}\.part$")


class PictureCache:
    """A folder of decoded pictures that never holds more bytes than its limit.

    Once it is full nothing is thrown out: every epoch shows every picture once, so what would be thrown out is needed
    again as soon as what would come in. The rest is decoded each time.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._opened = False

    def __reduce__(self) -> tuple[object, ...]:
        return PictureCache, (self.folder, self.limit_bytes)

    def sample(self, pair: Pair, label_map: LabelMap, decode: Callable[[], Sample]) -> Sample:
        """The decoded pair: from the cache, or from `decode` and into the cache while there is room.

        A pair whose files were changed since is another pair. The arrays of a cached sample cannot be written to.
        """
        try:
            path = self._path(pair, label_map)
        except OSError:
            return decode()  # which says what is wrong with the file
        found = _read(path, pair.key)
        if found is not None:
            return found
        sample = decode()
        self._write(path, sample)
        return sample

    def _path(self, pair: Pair, label_map: LabelMap) -> Path:
        digest = hashlib.sha256(label_map.digest_bytes())
        for file in (pair.image, pair.labels):
            known = file.stat()
            digest.update(f"{file.absolute()}\0{known.st_size}\0{known.st_mtime_ns}\0".encode())
        name = digest.hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.pixels"

    def _write(self, path: Path, sample: Sample) -> None:
        """Writes a sample whole or not at all; a full disk is as good as a full cache."""
        size = _HEADER.size + sample.image_hw3.nbytes + sample.labels_hw.nbytes
        part = self.folder / f"{os.getpid()}-{uuid.uuid4().hex}.part"
        try:
            if not self._reserve(part, size):
                return
            path.parent.mkdir(exist_ok=True)
            with part.open("r+b", buffering=0) as file:
                file.write(_HEADER.pack(_MAGIC, *sample.labels_hw.shape))
                file.write(np.ascontiguousarray(sample.image_hw3).data)
                file.write(np.ascontiguousarray(sample.labels_hw).data)
                os.fsync(file.fileno())  # or a power cut could leave the name of a file without its pixels
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)

    def _reserve(self, part: Path, size: int) -> bool:
        """Whether `size` more bytes fit; if so they are taken, as a file of that size."""
        with self._locked() as total:
            held = total.read() if self._opened else self._count()
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
                elif begun or name.endswith(".pixels"):
                    with contextlib.suppress(FileNotFoundError):
                        held += Path(parent, name).stat().st_size
        return held

    @contextlib.contextmanager
    def _locked(self) -> Iterator[_Total]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "total").open("a+b") as file:
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


def _read(path: Path, key: str) -> Sample | None:
    """The sample in a file, mapped and not copied; None where there is none."""
    try:
        with path.open("rb", buffering=0) as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, ValueError):  # an empty file cannot be mapped
        return None
    if len(content) < _HEADER.size:
        return None
    magic, height, width = _HEADER.unpack_from(content)
    pixels = height * width
    if magic != _MAGIC or len(content) != _HEADER.size + 4 * pixels:
        return None
    values: NDArray[np.uint8] = np.frombuffer(content, np.uint8, offset=_HEADER.size)
    return Sample(
        values[: 3 * pixels].reshape(height, width, 3), values[3 * pixels :].reshape(height, width), key
    )


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
