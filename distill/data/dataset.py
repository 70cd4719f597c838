"""What every data set is to the rest of the project, and how a config becomes one."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from distill.data.config import AnyDataConfig, ScenesConfig
from distill.data.remote_copies import RemoteCopiesConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distill.data.picture_cache import PictureCache

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


def build_dataset(
    config: AnyDataConfig,
    split: Split,
    *,
    protocol: Protocol = "clean",
    role: Role = "student",
    cache: PictureCache | None = None,
    copies: RemoteCopiesConfig | None = None,
) -> SegmentationDataset:
    """The pictures that one role may see in one split.

    Args:
        config: which data set.
        split: `train` to fit, `tune` to search, `test` to report.
        protocol: `clean` cuts tune out of the training pictures; `paper` trains on all of them, and its tune
            split is the test split (not free of leakage).
        role: the teacher may have more labelled training pictures than the student.
        cache: where decoded pictures of a data set on disk are kept; None decodes them every time.
        copies: where pictures that are fetched from a bucket are kept on this node; by default as `RemoteCopiesConfig` has it.

    Raises:
        UsageError: files are missing, the split would be empty, or a bucket cannot be read.
    """
    if isinstance(config, ScenesConfig):
        from distill.data.scenes import ScenesDataset

        return ScenesDataset(config, split, protocol=protocol, role=role)
    from distill.data.disk import DiskDataset

    return DiskDataset(config, split, protocol=protocol, role=role, cache=cache, copies=copies)


def licence_of(config: AnyDataConfig) -> str | None:
    """The page that says who may use a data set for what; None where nobody has to ask: its scenes are generated."""
    if isinstance(config, ScenesConfig):
        return None
    from distill.data.layouts import layout_of

    return layout_of(config).licence
