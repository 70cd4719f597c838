"""Checks the files of a data set's pictures and label maps before a run reads them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from distill.data.bucket import prefetched
from distill.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distill.data.headers import Header
    from distill.data.labels import LabelMap
    from distill.data.layout import Pair

T = TypeVar("T")

_PER_PALETTE = 20
_THREADS = 8  # each holds a decoded picture

Colours = dict[int, bytes]
"""R, G, B of each palette index that a label map uses."""


class PairHeaders(NamedTuple):
    """A pair of files and their headers."""

    pair: Pair
    image: Header
    labels: Header

    @property
    def is_turned(self) -> bool:
        """Whether the picture is not stored upright."""
        return self.image.orientation > 1

    @property
    def has_mask_of_stored_pixels(self) -> bool:
        """Whether the label map is not upright either."""
        return self.image.size != self.labels.size


def read_pair_headers(pair: Pair) -> PairHeaders:
    """Headers of a picture and its label file.

    Raises:
        BrokenFileError: a file cannot be read, is no image, or is truncated.
        UsageError: the label file cannot hold class values, or the two sizes differ.
    """
    from distill.data.disk import is_mask_of_stored_pixels, size_mismatch
    from distill.data.images import read_header, refuse_depth, refuse_label_file

    image, labels = read_header(pair.image), read_header(pair.labels)
    refuse_depth(pair.image, image)
    refuse_label_file(pair.labels, labels)
    if image.size != labels.size and not is_mask_of_stored_pixels(image, labels.size):
        raise UsageError(size_mismatch(pair, image, labels.size))
    return PairHeaders(pair, image, labels)


def orientation_notes(found: Sequence[PairHeaders]) -> list[str]:
    """Remarks on pictures that are turned by their EXIF orientation, and on label maps that are turned with them."""
    turned = [headers for headers in found if headers.is_turned]
    stored = [headers for headers in turned if headers.has_mask_of_stored_pixels]
    notes = []
    if turned:
        notes.append(
            f"{len(turned)} pictures are turned upright by their EXIF orientation (first: {turned[0].pair.image})"
        )
    if stored:
        notes.append(
            f"{len(stored)} label maps have the size of their picture before it is turned (first: "
            f"{stored[0].pair.labels}); they are turned with it"
        )
    return notes


def content_notes(found: Sequence[PairHeaders], pictures: Collection[Pair]) -> list[str]:
    """Remarks on pictures whose files hold more or less than one sound picture.

    Args:
        found: the pairs.
        pictures: those of them whose JPEGs are decoded to find damage.
    """
    from distill.data.images import is_damaged_jpeg

    jpegs = [headers.pair for headers in found if headers.image.format == "JPEG" and headers.pair in pictures]
    damaged = [
        pair
        for pair, bad in zip(jpegs, _mapped(lambda pair: is_damaged_jpeg(pair.image), jpegs), strict=True)
        if bad
    ]
    several = [headers.pair.image for headers in found if headers.image.frames > 1]
    several += [headers.pair.labels for headers in found if headers.labels.frames > 1]
    notes = []
    if damaged:
        notes.append(
            f"{len(damaged)} JPEG pictures make their decoder warn of damaged data (first: {damaged[0].image}): a part of "
            "them may be grey, shifted or noise; look at them, and upload them again"
        )
    if several:
        notes.append(
            f"{len(several)} files have several pages or frames (first: {several[0]}): the first one is read"
        )
    return notes


def orientation_problems(found: Sequence[PairHeaders]) -> list[str]:
    """Messages about label maps of turned pictures, if others of the data set were drawn before the picture was turned.

    A picture that is turned by 180°, mirrored or square has the same size before and after.
    """
    turned = [headers for headers in found if headers.is_turned]
    stored = [headers for headers in turned if headers.has_mask_of_stored_pixels]
    unclear = [headers for headers in turned if headers.image.stored_size == headers.image.size]
    if not stored or not unclear:
        return []
    return [
        f"{unclear[0].pair.image} is turned by its EXIF orientation {unclear[0].image.orientation}, and the size of "
        f"{unclear[0].pair.labels} does not show whether it was drawn before or after (so of {len(unclear)} pictures); "
        f"{len(stored)} other label maps were drawn before (first: {stored[0].pair.labels}). All must be drawn after. "
        "Remove the orientation from the pictures whose label maps were drawn before: exiftool -Orientation= FILE"
    ]


class Decoded(NamedTuple):
    """What a pair's decoded files hold.

    Attributes:
        counts: pixels per class in the label map, followed by the ignored ones.
        thumbnail: of the picture; None if it was not decoded.
    """

    counts: NDArray[np.int64]
    thumbnail: NDArray[np.float32] | None


def decoded_pairs(
    pairs: list[Pair], pictures: Collection[Pair], label_map: LabelMap
) -> Iterator[tuple[Pair, Decoded | UsageError]]:
    """What each pair's files hold; or the error that prevents their decoding.

    Args:
        pairs: pairs whose label maps are decoded.
        pictures: those of them whose pictures are decoded too.
        label_map: meaning of the values in the label files.
    """
    from distill.data.disk import read_labels, read_pair
    from distill.data.duplicates import thumbnail
    from distill.data.split_shares import label_counts

    def decoded(pair: Pair) -> Decoded | UsageError:
        try:
            if pair not in pictures:
                return Decoded(label_counts(read_labels(pair.labels, label_map), len(label_map.names)), None)
            sample = read_pair(pair, label_map)
        except UsageError as error:
            return error
        return Decoded(label_counts(sample.labels_hw, len(label_map.names)), thumbnail(sample.image_hw3))

    yield from zip(pairs, _mapped(decoded, pairs), strict=True)


def palette_problems(found: Sequence[PairHeaders]) -> list[str]:
    """A message if the same colour has another palette index in another label map.

    Programs that sort a palette by frequency keep the colours and change the indices, and the indices are the classes.

    No label map is decoded if all have the same palette; otherwise up to `_PER_PALETTE` of each palette.
    """
    from distill.data.images import read_values

    count: Counter[bytes] = Counter()
    by_pair: dict[Pair, bytes] = {}
    for headers in found:
        palette = headers.labels.palette
        if palette and count[palette] < _PER_PALETTE:
            count[palette] += 1
            by_pair[headers.pair] = palette
    if len(count) < 2:
        return []

    def colours(pair: Pair) -> Colours:
        try:
            used = set(read_values(pair.labels).ravel().tolist())
        except UsageError:  # reported by the pass that decodes labels
            return {}
        palette = by_pair[pair]
        return {index: palette[3 * index : 3 * index + 3] for index in used}

    known: dict[bytes, tuple[int, Pair]] = {}
    for pair, used in zip(by_pair, _mapped(colours, list(by_pair)), strict=True):
        for index, colour in used.items():
            if list(used.values()).count(colour) > 1:
                continue
            first, where = known.setdefault(colour, (index, pair))
            if first != index:
                return [
                    f"the colour {tuple(colour)} is value {first} in {where.labels} and value {index} in "
                    f"{pair.labels}, must be one value: the palettes are in different orders, and the values are the "
                    "classes. Save the label maps with one palette, in the order of the classes, or as grey PNG"
                ]
    return []


def _mapped(function: Callable[[Pair], T], pairs: list[Pair]) -> Iterator[T]:
    """Results for all pairs in order, computed in threads: decoders release the interpreter's lock."""
    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))
    try:
        yield from pool.map(function, prefetched((pair, (pair.image, pair.labels)) for pair in pairs))
    finally:
        pool.shutdown(cancel_futures=True)
