"""Does a data set on disk hold what its config promises? Found out before hours are spent on it."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill.data.config import CityscapesConfig, ScenesConfig
from distill.data.dataset import build_dataset
from distill.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distill.data.cityscapes import Pair

SAMPLE = 200
"""Label maps decoded when not all are."""

_SHOWN = 10


@dataclass(frozen=True)
class DatasetReport:
    """What a check found.

    Attributes:
        name: the data set's name.
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
        lines.append("sizes     " + ", ".join(f"{count} of {h}×{w}" for (h, w), count in sizes[:_SHOWN]))
        lines.append(f"labels    share of the pixels of {self.decoded} label maps")
        lines += [
            f"  {name:<{width}}  {100 * count / total:6.2f} %"
            for name, count in zip(names, (*self.pixels, self.ignored), strict=True)
        ]
        return "\n".join(lines + [f"note      {note}" for note in self.notes])


def check_dataset(config: ScenesConfig | CityscapesConfig, *, full: bool = False) -> DatasetReport:
    """Checks folders, pairs, image headers, sizes and label values, and counts what is there.

    Args:
        config: the data set.
        full: decode every picture and label map; otherwise all headers and `SAMPLE` label maps, spread
            evenly over the data set.

    Raises:
        UsageError: something is missing or wrong; names up to ten files, each with value, rule and remedy.
    """
    if isinstance(config, ScenesConfig):
        return _check_scenes(config, full)
    return _check_cityscapes(config, full)


def _check_scenes(config: ScenesConfig, full: bool) -> DatasetReport:
    dataset = build_dataset(config, "train", role="teacher")
    chosen = range(len(dataset)) if full else _spread(len(dataset))
    pixels = _histogram((dataset[index].labels_hw for index in chosen), len(dataset.classes))
    return _report(config, {config.size: len(dataset)}, dataset.classes, len(chosen), pixels, [])


def _check_cityscapes(config: CityscapesConfig, full: bool) -> DatasetReport:
    import numpy as np

    from distill.data.cityscapes import LABEL_CLASSES, find_pairs, read_image, read_labels, size_mismatch

    pairs: list[Pair] = []
    problems: list[str] = []
    for folder in ("train", "val"):
        try:
            pairs += find_pairs(config.root, folder)
        except UsageError as problem:
            problems.append(str(problem))
    sizes: Counter[tuple[int, int]] = Counter()
    sound = []
    for pair in pairs:
        try:
            image, labels = png_size(pair.image), png_size(pair.labels)
            if image != labels:
                raise UsageError(size_mismatch(pair, image, labels))
        except UsageError as problem:
            problems.append(str(problem))
            continue
        sizes[image] += 1
        sound.append(pair)
    chosen = range(len(sound)) if full else _spread(len(sound))
    pixels = np.zeros(len(LABEL_CLASSES) + 1, np.int64)
    for index in chosen:
        try:
            if full:
                read_image(sound[index].image)
            pixels += _histogram([read_labels(sound[index].labels)], len(LABEL_CLASSES))
        except UsageError as problem:
            problems.append(str(problem))
    if problems:
        raise _collected(config.root, problems)
    classes = tuple(label.name for label in LABEL_CLASSES)
    notes = (
        [] if full else [f"{len(sound) - len(chosen)} label maps were not decoded; --full decodes everything"]
    )
    return _report(config, dict(sizes), classes, len(chosen), pixels, notes)


def _report(
    config: ScenesConfig | CityscapesConfig,
    sizes: dict[tuple[int, int], int],
    classes: tuple[str, ...],
    decoded: int,
    pixels: NDArray[np.int64],
    notes: list[str],
) -> DatasetReport:
    images = {
        "train (student)": len(build_dataset(config, "train")),
        "train (teacher)": len(build_dataset(config, "train", role="teacher")),
        "tune": len(build_dataset(config, "tune")),
        "test": len(build_dataset(config, "test")),
    }
    absent = [name for name, count in zip(classes, pixels, strict=False) if not count]
    if absent:
        notes.append(f"no pixel of {', '.join(absent)} in the decoded label maps")
    counts = tuple(int(count) for count in pixels)
    return DatasetReport(config.kind, images, sizes, classes, decoded, counts[:-1], counts[-1], tuple(notes))


def png_size(path: Path) -> tuple[int, int]:
    """Height and width from a PNG's header. Raises `UsageError` naming the file where it is no PNG."""
    try:
        with path.open("rb") as file:
            header = file.read(24)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if len(header) < 24 or header[:8] != b"\x89PNG\r\n\x1a\n" or header[12:16] != b"IHDR":
        raise UsageError(f"{path} is not a PNG image (it starts with {header[:8]!r}); unpack it again")
    width, height = struct.unpack(">II", header[16:24])
    return height, width


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
