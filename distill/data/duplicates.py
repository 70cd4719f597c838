"""Finds pictures of a scored split that are the same files as pictures of another split, or that look the same."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distill.data.layout import Pair
    from distill.data.roots import File

_PIECE = 4096
_SIDE = 16
# Root mean square of the difference of two thumbnails, of 255. CamVid's pictures saved again as JPEGs of quality 30, or at 0.3 of
# their size, differ by at most 0.8 from the original; two frames of its videos, one second apart, by at least 3.6.
_ALIKE = 1.5
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of JPEG, which keeps it at full resolution
_FLAT = 8.0  # standard deviation of a thumbnail, below which pictures of different things look the same
_AT_ONCE = 1024


def repeated_files(splits: Mapping[str, Sequence[Pair]]) -> list[str]:
    """A note for each two splits that have pictures with the same bytes under different names.

    Only files of equal size are read, and only those whose middle 4 KiB are equal are read whole. Files that cannot be read
    are left out.
    """
    sizes = {name: _by(_size, (pair.image for pair in pairs)) for name, pairs in splits.items()}

    def same(one: str, other: str) -> list[tuple[File, File]]:
        equal = sizes[one].keys() & sizes[other].keys()
        return [files for size in equal for files in _twins(sizes[one][size], sizes[other][size])]

    return [
        f"{number} pictures of {other} are the same files as pictures of {one} (first: {first[0]} and "
        f"{first[1]}): the score of {other} is too high; take them out of one list"
        for one, other, number, first in _in_two_splits(splits, same)
    ]


def thumbnail(image_hw3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean luma of 16×16 parts of a picture, 256 numbers."""
    import cv2

    small = cv2.resize(image_hw3, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return (small @ _LUMA).ravel()


def similar_pictures(
    splits: Mapping[str, Sequence[Pair]], thumbnails: Mapping[File, NDArray[np.float32]]
) -> list[str]:
    """A note for each two splits that have pictures that look the same and are not the same files.

    Args:
        splits: pictures by split.
        thumbnails: of the pictures that were decoded; others are not compared.
    """
    shown = {
        name: [
            pair.image for pair in pairs if pair.image in thumbnails and thumbnails[pair.image].std() >= _FLAT
        ]
        for name, pairs in splits.items()
    }

    def alike(one: str, other: str) -> list[tuple[File, File]]:
        found = _alike(shown[one], shown[other], thumbnails)
        return [files for files in found if not _twins(files[1:], files[:1])]

    return [
        f"{number} pictures of {other} look the same as pictures of {one} (first: {first[0]} and {first[1]}): "
        f"if they are copies, or frames of one video, the score of {other} is too high; take them out of one list"
        for one, other, number, first in _in_two_splits(splits, alike)
    ]


def _in_two_splits(
    splits: Iterable[str], find: Callable[[str, str], list[tuple[File, File]]]
) -> Iterator[tuple[str, str, int, tuple[File, File]]]:
    """(a split, a later one, number of the later one's files that `find` finds in the first, the first of them)."""
    for one, other in itertools.combinations(splits, 2):
        if found := find(one, other):
            yield one, other, len(found), min(found, key=lambda files: str(files[0]))


def _alike(
    ones: Sequence[File], others: Sequence[File], thumbnails: Mapping[File, NDArray[np.float32]]
) -> list[tuple[File, File]]:
    """(file of `others`, the file of `ones` that looks most like it), if they look the same."""
    if not ones:
        return []
    found = []
    known = np.stack([thumbnails[file] for file in ones])
    known_squares = (known**2).sum(1)
    for start in range(0, len(others), _AT_ONCE):
        files = others[start : start + _AT_ONCE]
        asked = np.stack([thumbnails[file] for file in files])
        squares = known_squares + (asked**2).sum(1)[:, None] - 2 * asked @ known.T
        nearest = squares.argmin(1)
        for file, place, square in zip(files, nearest, squares.min(1), strict=True):
            if square <= _ALIKE**2 * known.shape[1]:
                found.append((file, ones[place]))
    return found


def _twins(ones: Sequence[File], others: Sequence[File]) -> list[tuple[File, File]]:
    """(file of `others`, file of `ones`) with the same bytes."""
    found = []
    pieces = _by(_middle, ones)
    for piece, files in _by(_middle, others).items():
        if piece in pieces:
            whole = _by(_digest, pieces[piece])
            for digest, same in _by(_digest, files).items():
                found += [(file, whole[digest][0]) for file in same if digest in whole]
    return found


def _by(key: Callable[[File], bytes | int], files: Iterable[File]) -> dict[bytes | int, list[File]]:
    """Readable files by key."""
    found: dict[bytes | int, list[File]] = {}
    for file in files:
        with contextlib.suppress(OSError):
            found.setdefault(key(file), []).append(file)
    return found


def _size(file: File) -> int:
    return file.stat().st_size


def _middle(file: File) -> bytes:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size // 2 - _PIECE // 2))
        return stream.read(_PIECE)


def _digest(file: File) -> bytes:
    with file.open("rb") as stream:
        return hashlib.sha256(stream.read()).digest()
