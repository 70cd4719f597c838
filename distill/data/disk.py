"""Data sets on disk or in a bucket, in any layout, decoded on access."""

from __future__ import annotations

from distill.data.config import DiskConfig
from distill.data.images import read_image, read_values
from distill.data.labels import Colour, LabelMap
from distill.data.layout import Pair
from distill.data.picture_cache import PictureCache
from distill.data.remote_copies import RemoteCopiesConfig
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
    """Decode a picture and its labels.

    Raises:
        BrokenFileError: a file cannot be read or decoded.
        UsageError: a label is invalid, or the two sizes differ.
    """
    image, labels = read_image(pair.image), label_map.labels(read_values(pair.labels), pair.labels)
    if image.shape[:2] != labels.shape:
        raise UsageError(size_mismatch(pair, image.shape[:2], labels.shape))
    return Sample(image, labels, pair.key)


def size_mismatch(pair: Pair, image: tuple[int, ...], labels: tuple[int, ...]) -> str:
    """Error message for a picture and a label map of different sizes (height, width)."""
    return (
        f"{pair.image} is {image[0]}×{image[1]} and {pair.labels} is {labels[0]}×{labels[1]}, "
        "must be of one size; unpack or upload both again"
    )
