"""Counts each class's pixels by split, and says which splits lack a class or have no valid pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distill.data.layout import Pair
    from distill.data.roots import File

_SHOWN = 10
_MEANING = {
    "train": "a student cannot learn it, and its IoU is about 0 where it is scored",
    "tune": "the search does not score it",
    "test": "it is not in the mean IoU",
}


class SplitShares:
    """Pixels per class in the decoded label maps of each split.

    Attributes:
        pixels: pixels per class, followed by the ignored ones, by split.
        decoded: number of decoded label maps by split.
        valid: pictures with a pixel that is not ignored.
    """

    def __init__(self, splits: Mapping[str, Sequence[Pair]], classes: Sequence[str]) -> None:
        self.pixels: dict[str, NDArray[np.int64]] = {
            name: np.zeros(len(classes) + 1, np.int64) for name in splits
        }
        self.decoded = dict.fromkeys(splits, 0)
        self.valid: set[File] = set()
        self._classes = classes
        self._sizes = {name: len(pairs) for name, pairs in splits.items()}
        self._split_of = {pair.image: name for name, pairs in splits.items() for pair in pairs}

    def add(self, image: File, counts: NDArray[np.int64]) -> None:
        """Add the `label_counts` of a picture."""
        split = self._split_of[image]
        self.pixels[split] += counts
        self.decoded[split] += 1
        if counts[:-1].any():
            self.valid.add(image)

    def notes(self) -> list[str]:
        """A note for each split in whose decoded label maps a class has no pixel."""
        notes = []
        for split, counts in self.pixels.items():
            absent = [name for name, count in zip(self._classes, counts[:-1], strict=True) if not count]
            if not absent or not self.decoded[split]:
                continue
            shown = ", ".join(absent[:_SHOWN])
            shown += f" and {len(absent) - _SHOWN} more" if absent[_SHOWN:] else ""
            decoded, size = self.decoded[split], self._sizes[split]
            where = f"the {size} label maps" if decoded == size else f"{decoded} decoded of {size} label maps"
            notes.append(f"no pixel of {shown} in {where} of {split}: {_MEANING[split]}")
            if len(absent) == len(self._classes) - 1:
                ignored = 100 * counts[-1] / counts.sum()
                remedy = (
                    f", and {ignored:.3g} % of its pixels are ignored: if an ignored value is a class, take it out of "
                    "`ignored` and put it into `classes`"
                    if ignored
                    else ": look at the label maps"
                )
                notes.append(f"all labelled pixels of {split} are of one class{remedy}")
        return notes


def label_counts(labels_hw: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Pixels per class, followed by the number of all other pixels."""
    counts = np.bincount(labels_hw.ravel(), minlength=256)
    return np.append(counts[:classes], counts[classes:].sum()).astype(np.int64)


def spread(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """At most `count` pairs, spread evenly."""
    return (
        [pairs[place] for place in sorted({k * len(pairs) // count for k in range(count)})] if pairs else []
    )
