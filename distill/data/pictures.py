"""Finds unlabelled pictures for prediction, and writes masks and overlays."""

from __future__ import annotations

import csv
import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.data.config import PICTURE_SUFFIXES
from distill.data.labels import Colour
from distill.data.roots import File, as_root, files_below
from distill.errors import UsageError
from distill.uris import is_uri

MASK, OVERLAY, CLASS_TABLE = ".mask.png", ".overlay.jpg", "classes.csv"
_OPACITY = 0.55


class Task(NamedTuple):
    """A picture, and the paths of its mask and overlay."""

    picture: File
    mask: Path
    overlay: Path


def find_pictures(given: Sequence[str], output: Path) -> list[File]:
    """Pictures in files, folders (recursively), globs, and files and folders of a bucket, each once.

    Folders and globs skip files below `output`, which an earlier command wrote.

    Raises:
        UsageError: an argument does not exist or contains no picture, or a bucket cannot be read.
    """
    if not given:
        raise UsageError("no picture is given, must be at least one file, folder or glob")
    found: dict[File, None] = {}
    for name in given:
        if is_uri(name):
            found |= dict.fromkeys(_in_bucket(as_root(name)))
            continue
        place = Path(name).expanduser()
        if place.is_file():
            matches = [place]
        elif place.is_dir():
            matches = _outside(
                output, (p for p in sorted(place.rglob("*")) if p.suffix.lower() in PICTURE_SUFFIXES)
            )
        else:
            globbed = (Path(match) for match in sorted(glob.glob(str(place), recursive=True)))
            matches = _outside(output, globbed)
            if not matches and not glob.has_magic(name):
                raise UsageError(f"picture '{name}' does not exist, must be a file, a folder or a glob")
        if not matches:
            raise UsageError(
                f"'{name}' holds no pictures, must hold one of {', '.join(PICTURE_SUFFIXES)} outside of the output folder"
            )
        found |= dict.fromkeys(picture.absolute() for picture in matches)
    return list(found)


def _in_bucket(place: File) -> list[File]:
    if place.name.lower().endswith(PICTURE_SUFFIXES) and not place.is_dir():
        return [place]  # a missing file is reported when it is read
    found = [file for _, file in sorted(files_below(place, ("",)), key=lambda pair: pair[0])]
    pictures = [file for file in found if file.name.lower().endswith(PICTURE_SUFFIXES)]
    if not pictures:
        raise UsageError(f"'{place}' holds no pictures, must hold one of {', '.join(PICTURE_SUFFIXES)}")
    return pictures


def _outside(output: Path, pictures: Iterable[Path]) -> list[Path]:
    folder = output.resolve()
    return [p for p in pictures if p.is_file() and folder not in p.resolve().parents]


def place_outputs(pictures: Sequence[File], output: Path) -> list[Task]:
    """Paths of masks and overlays: below `output`, relative to the pictures' common folder.

    Names are unique: `a/street.jpg` and `b/street.jpg` have different folders, and `street.jpg` and `street.png` keep
    their suffixes.

    Raises:
        UsageError: a mask or overlay would overwrite a picture.
    """
    places = [_place(picture) for picture in pictures]
    shared = os.path.commonpath([place.parent for place in places])
    below = [place.relative_to(shared) for place in places]
    # some file systems ignore case
    stems = Counter(str(path.with_suffix("")).casefold() for path in below)
    taken: Counter[str] = Counter()
    tasks = []
    for picture, path in zip(pictures, below, strict=True):
        name = str(path) if stems[str(path.with_suffix("")).casefold()] > 1 else str(path.with_suffix(""))
        while taken[name.casefold()]:
            name += "_"
        taken[name.casefold()] += 1
        tasks.append(Task(picture, output / f"{name}{MASK}", output / f"{name}{OVERLAY}"))
    inputs = {picture.resolve() for picture in pictures if isinstance(picture, Path)}
    for task in tasks:
        for written in (task.mask, task.overlay):
            if written.resolve() in inputs:
                raise UsageError(
                    f"{written} is one of the pictures, must not be written over; choose another --output"
                )
    return tasks


def _place(picture: File) -> PurePath:
    return picture if isinstance(picture, Path) else PurePosixPath(f"/{picture}")


def write_mask(path: Path, labels_hw: NDArray[np.uint8], palette: Sequence[Colour]) -> None:
    """Write a label map as a PNG with the data set's palette; its values are the classes."""
    mask = Image.fromarray(labels_hw, "P")
    mask.putpalette([channel for colour in palette for channel in colour])
    path.parent.mkdir(parents=True, exist_ok=True)
    mask.save(path)


def write_overlay(
    path: Path, image_hw3: NDArray[np.uint8], labels_hw: NDArray[np.uint8], palette: Sequence[Colour]
) -> None:
    """Write the picture with the classes' colours blended in, as a JPEG."""
    colours = np.asarray(palette, np.float32)[labels_hw]
    mixed = (1 - _OPACITY) * image_hw3 + _OPACITY * colours
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mixed.round().astype(np.uint8)).save(path, quality=90)


def write_class_table(path: Path, classes: Sequence[str], palette: Sequence[Colour]) -> None:
    """Write the classes of the masks' values, as the class table of a `folder` data set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("value", "name", "red", "green", "blue"))
        table.writerows((value, name, *palette[value]) for value, name in enumerate(classes))
