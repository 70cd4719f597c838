"""Maps the values in label files to classes."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from distill.data.roots import File
from distill.data.sample import IGNORE_INDEX
from distill.errors import UsageError

Colour = tuple[int, int, int]

_WRONG = IGNORE_INDEX - 1
_SHOWN = 10


class LabelClass(NamedTuple):
    """A class: its value in label files, its name and its colour (R, G, B)."""

    value: int
    name: str
    colour: Colour


class LabelError(UsageError):
    """A label file with values that are neither a class nor ignored."""

    def __init__(self, path: File, values: Iterable[int], rule: str) -> None:
        self.path, self.values, self.rule = path, frozenset(values), rule
        super().__init__(label_problem(f"{path} holds", self.values, rule))


def label_problem(subject: str, values: Collection[int], rule: str) -> str:
    """`FILE holds label 77, must be …`; of many values the first ones and their number."""
    shown = ", ".join(map(str, sorted(values)[:_SHOWN]))
    more = f" and {len(values) - _SHOWN} others" if len(values) > _SHOWN else ""
    return f"{subject} label{'' if len(values) == 1 else 's'} {shown}{more}, {rule}"


@dataclass(frozen=True)
class LabelMap:
    """Meaning of the values in label files.

    Attributes:
        classes: the classes in the order of the labels 0 … K − 1.
        ignored: values that are excluded from losses and scores.
        advice: remedy for any other value, for the error message.
    """

    classes: tuple[LabelClass, ...]
    ignored: frozenset[int]
    advice: str

    @functools.cached_property
    def _table(self) -> NDArray[np.uint8]:
        table = np.full(256, _WRONG, np.uint8)
        table[sorted(self.ignored)] = IGNORE_INDEX
        table[[label.value for label in self.classes]] = np.arange(len(self.classes))
        return table

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by label."""
        return tuple(label.name for label in self.classes)

    @property
    def palette(self) -> tuple[Colour, ...]:
        """Colours by label."""
        return tuple(label.colour for label in self.classes)

    def labels(self, values_hw: NDArray[np.uint8], path: File) -> NDArray[np.uint8]:
        """Labels `H×W` of the values in a file; raises LabelError naming the file and the invalid values."""
        labels_hw: NDArray[np.uint8] = np.asarray(cv2.LUT(values_hw, self._table), np.uint8)
        if (labels_hw == _WRONG).any():
            values = np.unique(values_hw[labels_hw == _WRONG]).tolist()
            allowed = _ranges({*self.ignored, *(label.value for label in self.classes)})
            raise LabelError(path, values, f"must be {allowed}; {self.advice}")
        return labels_hw

    def digest_bytes(self) -> bytes:
        """Bytes that identify the mapping, for keys of caches."""
        return self._table.tobytes()


def numbered(names: Iterable[str], first: int = 0) -> tuple[LabelClass, ...]:
    """Classes with consecutive values and VOC's colours."""
    return tuple(LabelClass(value, name, voc_colour(value)) for value, name in enumerate(names, first))


def distinct_colour(place: int) -> Colour:
    """Colour of the class at a place, for classes that have none of their own: far from those of all places before it.

    Args:
        place: from 0 to 255.
    """
    return _distinct_colours()[place]


@functools.cache
def _distinct_colours() -> tuple[Colour, ...]:
    """256 colours, each the one of a grid that is farthest from those before it, from black, white and mid grey.

    The distance weighs red, green and blue by their share in what an eye tells apart (2, 4, 3). All numbers are whole, so
    that the colours are the same on every machine.
    """
    levels = np.arange(16, 256, 32)
    grid_n3 = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)

    def distance(colour: NDArray[np.int64]) -> NDArray[np.int64]:
        squares: NDArray[np.int64] = (grid_n3 - colour) ** 2 @ np.array([2, 4, 3])
        return squares

    nearest = np.minimum.reduce([distance(np.array([grey] * 3)) for grey in (0, 128, 255)])
    found = []
    for _ in range(256):
        farthest = grid_n3[int(nearest.argmax())]
        found.append((int(farthest[0]), int(farthest[1]), int(farthest[2])))
        nearest = np.minimum(nearest, distance(farthest))
    return tuple(found)


def voc_colour(value: int) -> Colour:
    """Colour of a byte value in Pascal VOC's colour map.

    The bits of the value go to red, green and blue in turn, from each channel's highest bit down.
    """
    red = green = blue = 0
    for place in range(8):
        red |= (value & 1) << (7 - place)
        green |= (value >> 1 & 1) << (7 - place)
        blue |= (value >> 2 & 1) << (7 - place)
        value >>= 3
    return red, green, blue


def _ranges(values: set[int]) -> str:
    """`from 0 to 33`, or `one of 0–10, 12, 255`."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    if len(runs) == 1:
        return f"from {runs[0][0]} to {runs[0][-1]}"
    return "one of " + ", ".join(f"{r[0]}–{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)
