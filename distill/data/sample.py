"""Types that all data sets share: one labelled picture, the interface of a data set, and the names of splits."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IGNORE_INDEX = 255
"""The label of pixels that count neither in a loss nor in a score."""

Split = Literal["train", "tune", "test"]
Protocol = Literal["clean", "paper"]
Role = Literal["student", "teacher"]


@dataclass(frozen=True)
class Sample:
    """One labelled picture.

    Attributes:
        image_hw3: RGB, uint8.
        labels_hw: class per pixel, uint8; `IGNORE_INDEX` where ignored.
        key: the picture's name within its data set, stable for ever.
    """

    image_hw3: NDArray[np.uint8]
    labels_hw: NDArray[np.uint8]
    key: str


class SegmentationDataset(typing.Protocol):
    """Labelled pictures in a fixed order. Arrays of a sample may be shared: never write to them."""

    @property
    def name(self) -> str:
        """The data set's name, the same for all its splits."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""

    @property
    def num_classes(self) -> int:
        """Number of classes, the ignored label not among them."""

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """A colour (R, G, B) per class, for pictures of label maps."""

    @property
    def ignore_index(self) -> int:
        """The ignored label."""

    @property
    def broken_share(self) -> float:
        """Share of the pictures that a training may find unreadable and skip."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...
