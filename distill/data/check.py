"""Does a data set on disk hold what its config promises? Found out before hours are spent on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill.data.config import AnyDataConfig, DiskConfig, ScenesConfig
from distill.data.dataset import build_dataset
from distill.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distill.data.layout import Pair
    from distill.data.splits import Splits

SAMPLE = 200
"""Label maps decoded when not all are."""

_SHOWN = 10


@dataclass(frozen=True)
class DatasetReport:
    """What a check found.

    Attributes:
        name: the data set's kind.
        licence: the page that says who may use it for what; None where nobody has to ask.
        images: pictures by split and role, of the clean protocol: `train (student)`, `train (teacher)`,
            `tune`, `test`.
        sizes: pictures by (height, width).
        classes: class names.
        decoded: label maps decoded; all of them in a full check.
        pixels: pixels per class in them.
        ignored: ignored pixels in them.
        notes: what is allowed but worth knowing.
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
        """The report in lines for a terminal."""
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


def check_dataset(config: AnyDataConfig, *, full: bool = False, skip_broken: bool = False) -> DatasetReport:
    """Checks folders, pairs, image headers, sizes and label values, and counts what is there.

    Args:
        config: the data set.
        full: decode every picture and label map; otherwise all headers and `SAMPLE` label maps, spread
            evenly over the data set.
        skip_broken: let pass what a run would skip: unreadable train pictures, up to the config's `broken_share`.

    Raises:
        UsageError: something is missing or wrong; names up to ten files, each with value, rule and remedy.
    """
    if isinstance(config, ScenesConfig):
        return _check_scenes(config, full)
    return _check_disk(config, full, skip_broken)


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


def _check_disk(config: DiskConfig, full: bool, skip_broken: bool) -> DatasetReport:
    import numpy as np

    from distill.data.disk import read_pair
    from distill.data.images import BrokenFileError, read_values
    from distill.data.splits import Splits

    splits = Splits(config)
    pairs: list[Pair] = []
    problems: list[str] = []
    for published in ("train", "tune", "test"):
        try:
            pairs += getattr(splits, published)
        except UsageError as problem:
            problems.append(str(problem))
    if not problems:
        problems += _in_two_splits(splits)
    trained_on: set[str] = set()
    if not problems:
        trained_on = {pair.key for pair in splits.select("train", role="teacher")}
    sizes: Counter[tuple[int, int]] = Counter()
    sound: list[Pair] = []
    broken: list[str] = []

    def note(pair: Pair, problem: UsageError) -> None:
        skippable = skip_broken and pair.key in trained_on and isinstance(problem, BrokenFileError)
        (broken if skippable else problems).append(str(problem))

    for pair in pairs:
        try:
            sizes[_check_headers(pair)] += 1
        except UsageError as problem:
            note(pair, problem)
        else:
            sound.append(pair)
    names = splits.layout.label_map.names
    pixels = np.zeros(len(names) + 1, np.int64)
    chosen = range(len(sound)) if full else _spread(len(sound))
    for index in chosen:
        pair, label_map = sound[index], splits.layout.label_map
        try:
            labels_hw = (
                read_pair(pair, label_map).labels_hw
                if full
                else label_map.labels(read_values(pair.labels), pair.labels)
            )
            pixels += _histogram([labels_hw], len(names))
        except UsageError as problem:
            note(pair, problem)
    if len(broken) > int(config.broken_share * len(trained_on)):
        problems += broken
    if problems:
        raise _collected(config.root, problems)
    notes = [f"will be skipped: {problem}" for problem in broken]
    if extra := _extra_files(splits, pairs):
        notes.append(extra)
    if not full:
        notes.append(f"{len(sound) - len(chosen)} label maps were not decoded; --full decodes everything")
    images = {
        "train (student)": len(splits.select("train")),
        "train (teacher)": len(splits.select("train", role="teacher")),
        "tune": len(splits.select("tune")),
        "test": len(splits.select("test")),
    }
    licence = splits.layout.licence
    return _report(config.kind, licence, images, dict(sizes), names, len(chosen), pixels, notes)


def _check_headers(pair: Pair) -> tuple[int, int]:
    """Height and width of a sound pair, from the files' first and last bytes."""
    from distill.data.disk import size_mismatch
    from distill.data.images import read_header, refuse_colours

    image, labels = read_header(pair.image), read_header(pair.labels)
    refuse_colours(pair.labels, labels.mode)
    if image[:2] != labels[:2]:
        raise UsageError(size_mismatch(pair, image[:2], labels[:2]))
    return image.height, image.width


def _in_two_splits(splits: Splits) -> list[str]:
    """A picture that is trained on and scored on makes scores worthless."""
    files = {name: {pair.image for pair in getattr(splits, name)} for name in ("train", "tune", "test")}
    problems = []
    for one, other in (("train", "tune"), ("train", "test"), ("tune", "test")):
        if both := sorted(files[one] & files[other]):
            problems.append(
                f"{len(both)} pictures are in {one} and in {other} (first: {both[0]}), must be in one; "
                "take them out of one list"
            )
    return problems


def _extra_files(splits: Splits, pairs: list[Pair]) -> str | None:
    """How many pictures and label files no split names."""
    from distill.data.layout import count_files

    sources = [s for s in (splits.layout.train, splits.layout.tune, splits.layout.test) if s is not None]
    root = splits.config.root
    images = sum(count_files(root, *place) for place in {(s.images, s.image_suffixes) for s in sources})
    labels = sum(count_files(root, *place) for place in {(s.labels, (s.label_suffix,)) for s in sources})
    spare_images = images - len({pair.image for pair in pairs})
    spare_labels = labels - len({pair.labels for pair in pairs})
    if not spare_images and not spare_labels:
        return None
    return f"{spare_images} pictures and {spare_labels} label maps are in no split"


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
    """Pixels per class, and at the end those of all other labels."""
    import numpy as np

    counts = np.zeros(256, np.int64)
    for labels_hw in label_maps:
        counts += np.bincount(labels_hw.ravel(), minlength=256)
    return np.append(counts[:classes], counts[classes:].sum())


def _collected(root: Path, found: list[str]) -> UsageError:
    problems = list(dict.fromkeys(found))
    if len(problems) == 1:
        return UsageError(problems[0])
    more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return UsageError(f"{len(problems)} problems under {root}:\n  " + "\n  ".join(problems[:_SHOWN]) + more)
