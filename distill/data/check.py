"""Checks a data set against its config before a sweep uses it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from distill.data.bucket import prefetched
from distill.data.config import AnyDataConfig, DiskConfig, ScenesConfig
from distill.data.factory import build_dataset
from distill.data.picture_check import (
    PairHeaders,
    orientation_notes,
    orientation_problems,
    palette_problems,
    read_pair_headers,
    undecodable,
)
from distill.data.remote_copies import RemoteCopiesConfig
from distill.data.roots import File, is_remote
from distill.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distill.data.labels import LabelMap
    from distill.data.layout import Pair
    from distill.data.splits import Splits

SAMPLE = 200
"""Number of label maps decoded in a quick check, besides those of tune and test."""

_SHOWN = 10


@dataclass(frozen=True)
class DatasetReport:
    """Result of a check.

    Attributes:
        name: the data set's kind.
        licence: name and page of the licence; None for generated scenes.
        images: number of pictures by split and role in the clean protocol: `train (student)`, `train (teacher)`,
            `tune`, `test`.
        sizes: number of pictures by (height, width).
        classes: class names.
        decoded: number of decoded label maps; all in a full check.
        pixels: pixels per class in them.
        ignored: ignored pixels in them.
        notes: remarks about allowed but unusual findings.
    """

    name: str
    licence: str | None
    images: dict[str, int]
    sizes: dict[tuple[int, int], int]
    classes: tuple[str, ...]
    decoded: int
    pixels: tuple[int, ...]
    ignored: int
    notes: tuple[str, ...]

    def describe(self) -> str:
        """The report as text for a terminal."""
        total = max(1, sum(self.pixels) + self.ignored)
        names = (*self.classes, "ignored")
        width = max(len(name) for name in names)
        lines = ["pictures  " + " · ".join(f"{count} {name}" for name, count in self.images.items())]
        sizes = sorted(self.sizes.items())
        more = f" and {len(sizes) - _SHOWN} other sizes" if sizes[_SHOWN:] else ""
        lines.append(
            "sizes     " + ", ".join(f"{count} of {h}×{w}" for (h, w), count in sizes[:_SHOWN]) + more
        )
        lines.append(f"labels    share of the pixels of {self.decoded} label maps")
        lines += [
            f"  {name:<{width}}  {100 * count / total:6.2f} %"
            for name, count in zip(names, (*self.pixels, self.ignored), strict=True)
        ]
        if self.licence is not None:
            lines.append(f"licence   {self.licence}")
        return "\n".join(lines + [f"note      {note}" for note in self.notes])


def check_dataset(
    config: AnyDataConfig,
    *,
    full: bool = False,
    skip_broken: bool = False,
    copies: RemoteCopiesConfig | None = None,
) -> DatasetReport:
    """Check folders, pairs, image headers, sizes and label values, and count pictures and pixels.

    Args:
        config: config of the data set.
        full: decode every picture and label map. Otherwise read all headers, and decode the pairs of tune and test and
            `SAMPLE` label maps, spread evenly over the data set. Of a bucket, all names are checked, but no other files.
        skip_broken: accept what a run would skip: unreadable train pictures, up to the config's `broken_share`.
        copies: local copies of pictures in a bucket; None uses the defaults of `RemoteCopiesConfig`.

    Raises:
        UsageError: something is missing or wrong; the message names up to ten files with value, rule and remedy.
    """
    if isinstance(config, ScenesConfig):
        return _check_scenes(config, full)
    return _check_disk(config, full, skip_broken, copies)


def _check_scenes(config: ScenesConfig, full: bool) -> DatasetReport:
    dataset = build_dataset(config, "train", role="teacher")
    chosen = range(len(dataset)) if full else _spread(len(dataset))
    pixels = _histogram((dataset[index].labels_hw for index in chosen), len(dataset.classes))
    images = {
        "train (student)": len(build_dataset(config, "train")),
        "train (teacher)": len(dataset),
        "tune": config.tune,
        "test": config.test,
    }
    sizes = {config.size: len(dataset)}
    return _report(config.kind, None, images, sizes, dataset.classes, len(chosen), pixels, [])


@dataclass
class _Found:
    """Problems found by a check.

    Attributes:
        skippable: keys of the pictures that a run may skip: those only trained on.
        problems: problems that make the check fail.
        skipped: problems of skippable pictures.
    """

    skippable: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def note(self, pair: Pair, problem: UsageError) -> None:
        from distill.data.images import BrokenFileError

        skip = pair.key in self.skippable and isinstance(problem, BrokenFileError)
        (self.skipped if skip else self.problems).append(str(problem))


def _check_disk(
    config: DiskConfig, full: bool, skip_broken: bool, copies: RemoteCopiesConfig | None
) -> DatasetReport:
    from distill.data.splits import Splits

    splits, found = Splits(config, copies), _Found()
    pairs = _listed(splits, found)
    if skip_broken and not found.problems:
        found.skippable = {pair.key for pair in splits.select("train", role="teacher")}
    sampled = is_remote(config.root) and not full
    scored = set() if found.problems else {*splits.select("tune"), *splits.select("test")}
    spread = set(pairs if full else (pairs[index] for index in _spread(len(pairs))))
    read = [pair for pair in pairs if pair in spread or pair in scored] if sampled else pairs
    headers = _sound_headers(read, found)
    chosen = [sound for sound in headers if sound.pair in spread]
    label_map = splits.layout.label_map
    pixels = _histogram(
        _decoded([sound.pair for sound in chosen], label_map, full, found), len(label_map.names)
    )
    found.problems += orientation_problems(headers) + palette_problems(headers)
    if not full:
        for pair, problem in undecodable(headers, scored, label_map):
            found.note(pair, problem)
    if len(found.skipped) > int(config.broken_share * len(found.skippable)):
        found.problems += found.skipped
    if found.problems:
        raise _collected(config.root, found.problems)
    notes = [f"will be skipped: {problem}" for problem in found.skipped]
    notes += orientation_notes(headers)
    notes += _extra_files(splits, pairs)
    if not full:
        notes.append(
            f"decoded were the pictures of tune and test, and {len(chosen)} of {len(pairs)} label maps"
            f"{', and no other file was fetched' if sampled else ''}; --full decodes everything"
        )
    images = {
        "train (student)": len(splits.select("train")),
        "train (teacher)": len(splits.select("train", role="teacher")),
        "tune": len(splits.select("tune")),
        "test": len(splits.select("test")),
    }
    licence = splits.layout.licence
    sizes = dict(Counter(sound.image.size for sound in headers))
    return _report(config.kind, licence, images, sizes, label_map.names, len(chosen), pixels, notes)


def _listed(splits: Splits, found: _Found) -> list[Pair]:
    """All pairs of all published splits that can be listed."""
    pairs: list[Pair] = []
    for published in ("train", "tune", "test"):
        try:
            pairs += getattr(splits, published)
        except UsageError as problem:
            found.problems.append(str(problem))
    if not found.problems:
        found.problems += _in_two_splits(splits)
    return pairs


def _sound_headers(pairs: list[Pair], found: _Found) -> list[PairHeaders]:
    """The pairs whose headers and file ends are valid."""
    sound: list[PairHeaders] = []
    for pair in prefetched((pair, (pair.image, pair.labels)) for pair in pairs):
        try:
            sound.append(read_pair_headers(pair))
        except UsageError as problem:
            found.note(pair, problem)
    return sound


def _decoded(
    pairs: list[Pair], label_map: LabelMap, full: bool, found: _Found
) -> Iterator[NDArray[np.uint8]]:
    """Label maps that can be decoded; a full check decodes the picture too."""
    from distill.data.disk import read_labels, read_pair

    for pair in pairs:
        try:
            if full:
                yield read_pair(pair, label_map).labels_hw
            else:
                yield read_labels(pair.labels, label_map)
        except UsageError as problem:
            found.note(pair, problem)


def _in_two_splits(splits: Splits) -> list[str]:
    """Messages about pictures that are in two splits."""
    files = {name: {pair.image for pair in getattr(splits, name)} for name in ("train", "tune", "test")}
    problems = []
    for one, other in (("train", "tune"), ("train", "test"), ("tune", "test")):
        if both := files[one] & files[other]:
            problems.append(
                f"{len(both)} pictures are in {one} and in {other} (first: {min(both, key=str)}), must be in one; "
                "take them out of one list"
            )
    return problems


def _extra_files(splits: Splits, pairs: list[Pair]) -> list[str]:
    """A note on pictures and label files that are in no split."""
    from distill.data.layout import count_files

    sources = [s for s in (splits.layout.train, splits.layout.tune, splits.layout.test) if s is not None]
    root = splits.root
    images = sum(count_files(root, *place) for place in {(s.images, s.image_suffixes) for s in sources})
    labels = sum(count_files(root, *place) for place in {(s.labels, (s.label_suffix,)) for s in sources})
    spare_images = images - len({pair.image for pair in pairs})
    spare_labels = labels - len({pair.labels for pair in pairs})
    if not spare_images and not spare_labels:
        return []
    return [f"{spare_images} pictures and {spare_labels} label maps are in no split"]


def _report(
    name: str,
    licence: str | None,
    images: dict[str, int],
    sizes: dict[tuple[int, int], int],
    classes: tuple[str, ...],
    decoded: int,
    pixels: NDArray[np.int64],
    notes: list[str],
) -> DatasetReport:
    absent = [label for label, count in zip(classes, pixels, strict=False) if not count]
    if absent:
        shown = ", ".join(absent[:_SHOWN]) + (f" and {len(absent) - _SHOWN} more" if absent[_SHOWN:] else "")
        notes.append(f"no pixel of {shown} in the decoded label maps")
    counts = tuple(int(count) for count in pixels)
    return DatasetReport(
        name, licence, images, sizes, classes, decoded, counts[:-1], counts[-1], tuple(notes)
    )


def _spread(length: int) -> list[int]:
    return sorted({index * length // SAMPLE for index in range(SAMPLE)}) if length else []


def _histogram(label_maps: Iterable[NDArray[np.uint8]], classes: int) -> NDArray[np.int64]:
    """Pixels per class, followed by the number of all other pixels."""
    import numpy as np

    counts = np.zeros(256, np.int64)
    for labels_hw in label_maps:
        counts += np.bincount(labels_hw.ravel(), minlength=256)
    return np.append(counts[:classes], counts[classes:].sum())


def _collected(root: File, found: list[str]) -> UsageError:
    problems = list(dict.fromkeys(found))
    if len(problems) == 1:
        return UsageError(problems[0])
    more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return UsageError(f"{len(problems)} problems under {root}:\n  " + "\n  ".join(problems[:_SHOWN]) + more)
