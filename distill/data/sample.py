"""Types that all data sets share: one labelled picture, the interface of a data set, and the names of splits."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IGNORE_INDEX = 255
"""Label of pixels that are excluded from losses and scores."""

Split = Literal["train", "tune", "test"]
Protocol = Literal["clean", "paper"]
Role = Literal["student", "teacher"]


@dataclass(frozen=True)
class Sample:
    """One labelled picture.

    Attributes:
        image_hw3: RGB, uint8.
        labels_hw: class per pixel, uint8; `IGNORE_INDEX` where ignored.
        key: the picture's name within its data set; it never changes.
    """

    image_hw3: NDArray[np.uint8]
    labels_hw: NDArray[np.uint8]
    key: str


class SegmentationDataset(typing.Protocol):
    """Labelled pictures in a fixed order. Arrays of a sample may be shared, so do not write to them."""

    @property
    def name(self) -> str:
        """The data set's name, the same for all its splits."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""

    @property
    def num_classes(self) -> int:
        """Number of classes, without the ignored label."""

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """A colour (R, G, B) per class to draw label maps with."""

    @property
    def ignore_index(self) -> int:
        """The ignored label."""

    @property
    def broken_share(self) -> float:
        """Share of the pictures that may be unreadable and skipped in training."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...
