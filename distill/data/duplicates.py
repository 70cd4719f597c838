"""Finds pictures of a scored split that are the same files as pictures of another split."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.data.layout import Pair
    from distill.data.roots import File

_PIECE = 4096


def repeated_files(splits: Mapping[str, Sequence[Pair]]) -> list[str]:
    """A note for each two splits that have pictures with the same bytes under different names.

    Only files of equal size are read, and only those whose middle 4 KiB are equal are read whole. Files that cannot be read
    are left out.
    """
    sizes = {name: _by(_size, (pair.image for pair in pairs)) for name, pairs in splits.items()}
    names, notes = list(splits), []
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            twins = []
            for size in sizes[one].keys() & sizes[other].keys():
                twins += _twins(sizes[one][size], sizes[other][size])
            if twins:
                first = min(twins, key=lambda files: str(files[0]))
                notes.append(
                    f"{len(twins)} pictures of {other} are the same files as pictures of {one} (first: {first[0]} and "
                    f"{first[1]}): the score of {other} is too high; take them out of one list"
                )
    return notes


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
