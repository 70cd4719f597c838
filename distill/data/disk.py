"""Data sets on disk or in a bucket, in any layout, decoded on access."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distill.data.config import DiskConfig
from distill.data.headers import Header
from distill.data.images import read_header, read_image, read_values, upright
from distill.data.labels import Colour, LabelError, LabelMap
from distill.data.layout import Pair
from distill.data.picture_cache import PictureCache
from distill.data.remote_copies import RemoteCopiesConfig
from distill.data.roots import File
from distill.data.sample import IGNORE_INDEX, Protocol, Role, Sample, Split
from distill.data.splits import Splits
from distill.errors import UsageError


class DiskDataset:
    """Labelled pictures of one split of a data set on disk or in a bucket."""

    ignore_index = IGNORE_INDEX

    def __init__(
        self,
        config: DiskConfig,
        split: Split,
        *,
        protocol: Protocol = "clean",
        role: Role = "student",
        cache: PictureCache | None = None,
        copies: RemoteCopiesConfig | None = None,
    ) -> None:
        splits = Splits(config, copies)
        self.name = config.kind
        self.pairs = splits.select(split, protocol=protocol, role=role)
        self.label_map = splits.layout.label_map
        self.broken_share = config.broken_share
        self.cache = cache

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        return self.label_map.names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.label_map.classes)

    @property
    def palette(self) -> tuple[Colour, ...]:
        """A colour per class."""
        return self.label_map.palette

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        if self.cache is None:
            return read_pair(pair, self.label_map)
        return self.cache.sample(pair, self.label_map, lambda: read_pair(pair, self.label_map))


def read_pair(pair: Pair, label_map: LabelMap) -> Sample:
    """Decode a picture and its labels, both upright.

    Raises:
        BrokenFileError: a file cannot be read or decoded.
        UsageError: a label is invalid, or the two sizes differ.
    """
    image, labels = read_image(pair.image), read_labels(pair.labels, label_map)
    if image.shape[:2] != labels.shape:
        header = read_header(pair.image)
        if not is_mask_of_stored_pixels(header, labels.shape):
            raise UsageError(size_mismatch(pair, header, labels.shape))
        labels = upright(labels, header.orientation)
    return Sample(image, labels, pair.key)


def read_labels(path: File, label_map: LabelMap) -> NDArray[np.uint8]:
    """Decode a label file to labels `H×W`.

    Raises:
        BrokenFileError: the file cannot be read or decoded.
        UsageError: it holds an invalid value.
    """
    values = read_values(path)
    try:
        return label_map.labels(values, path)
    except LabelError as error:
        header = read_header(path)
        if header.bits == 8 or header.palette:
            raise
        white = f"(a PNG of {header.bits} bits, in which white is {2**header.bits - 1} and not 255)"
        raise LabelError(path, error.values, f"{error.rule} {white}") from error


def is_mask_of_stored_pixels(image: Header, labels: tuple[int, ...]) -> bool:
    """Whether a label map (height, width) has the size of a picture that is stored on its side, and not of the upright one.

    Such labels were drawn by a program that ignores EXIF orientation, so they are turned as the picture is.
    """
    return labels == image.stored_size != image.size


def size_mismatch(pair: Pair, image: Header, labels: tuple[int, ...]) -> str:
    """Error message for a picture and a label map of different sizes (height, width)."""
    turned = f" when turned by its EXIF orientation {image.orientation}" if image.orientation > 1 else ""
    return (
        f"{pair.image} is {image.height}×{image.width}{turned} and {pair.labels} is {labels[0]}×{labels[1]}, "
        "must be of one size; unpack or upload both again"
    )
