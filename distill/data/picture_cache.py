"""Decoded pictures in memory-mapped files, shared by all processes of a machine.

A picture is decoded once and then memory-mapped: a crop reads only the pages that it covers. In a folder in memory
(/dev/shm) the files are shared memory; on a local disk the operating system caches their pages. The cache stores the
decoded bytes unchanged.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.data.disk_cache import DiskCache
from distill.data.images import READER
from distill.data.labels import LabelMap
from distill.data.layout import Pair
from distill.data.sample import Sample

_HEADER = struct.Struct("<8sQQ40x")  # 64 bytes, so that pixels start on a cache line
_MAGIC = b"pixels-%d" % READER  # what an older reader decoded is decoded again


class PictureCache:
    """A cache of decoded pictures with a size limit.

    A full cache deletes nothing: every epoch uses every picture once, so a deleted picture would be needed as soon as
    the new one. Pictures that are not cached are decoded each time.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._disk_cache = DiskCache(folder, limit_bytes, ".pixels", evicts=False)

    def __reduce__(self) -> tuple[object, ...]:
        return PictureCache, (self.folder, self.limit_bytes)

    def sample(self, pair: Pair, label_map: LabelMap, decode: Callable[[], Sample]) -> Sample:
        """The decoded pair, from the cache or from `decode`; the latter is then cached if it fits.

        Changed files count as a new pair. Arrays of a cached sample are read-only.
        """
        try:
            name = _name(pair, label_map)
        except OSError:
            return decode()  # which raises the readable error
        found = _read(self._disk_cache.path(name), pair.key)
        if found is not None:
            return found
        sample = decode()
        self._disk_cache.put(name, _pieces(sample))
        return sample


def _name(pair: Pair, label_map: LabelMap) -> str:
    digest = hashlib.sha256(label_map.digest_bytes())
    for file in (pair.image, pair.labels):
        known = file.stat()
        digest.update(f"{file.absolute().as_uri()}\0{known.st_size}\0{known.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


def _pieces(sample: Sample) -> tuple[bytes | memoryview, ...]:
    arrays = (np.ascontiguousarray(array) for array in (sample.image_hw3, sample.labels_hw))
    return _HEADER.pack(_MAGIC, *sample.labels_hw.shape), *(array.data.cast("B") for array in arrays)


def _read(path: Path, key: str) -> Sample | None:
    """The sample in a file, memory-mapped; None if the file is missing or invalid."""
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
