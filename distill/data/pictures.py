"""Pictures of people's own, without labels: found, read upright, and written beside each other as label maps."""

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
from PIL import Image, ImageOps, UnidentifiedImageError

from distill.data.images import BrokenFileError
from distill.data.labels import Colour
from distill.data.roots import File, as_root, files_below
from distill.errors import UsageError
from distill.uris import is_uri

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""How the names of pictures end that are looked for in a folder."""

MASK, OVERLAY, CLASS_TABLE = ".mask.png", ".overlay.jpg", "classes.csv"
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "La", "RGBa")
_OPACITY = 0.55


class Task(NamedTuple):
    """A picture, and where its label map and overlay are written."""

    picture: File
    mask: Path
    overlay: Path


def find_pictures(given: Sequence[str], output: Path) -> list[File]:
    """The pictures of files, folders (with all below them), globs, and files and folders of a bucket, each once.

    What lies below `output` is left out of folders and globs: it was written by an earlier command.

    Raises:
        UsageError: something given does not exist, or holds no picture, or a bucket cannot be read.
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
            mine = [place]
        elif place.is_dir():
            mine = _outside(output, (p for p in sorted(place.rglob("*")) if p.suffix.lower() in SUFFIXES))
        else:
            matches = (Path(match) for match in sorted(glob.glob(str(place), recursive=True)))
            mine = _outside(output, matches)
            if not mine and not glob.has_magic(name):
                raise UsageError(f"picture '{name}' does not exist, must be a file, a folder or a glob")
        if not mine:
            raise UsageError(
                f"'{name}' holds no pictures, must hold one of {', '.join(SUFFIXES)} outside of the output folder"
            )
        found |= dict.fromkeys(picture.absolute() for picture in mine)
    return list(found)


def _in_bucket(place: File) -> list[File]:
    if place.name.lower().endswith(SUFFIXES) and not place.is_dir():
        return [place]  # one that is not there is told when its turn comes, as any that cannot be read
    found = [file for _, file in sorted(files_below(place, ("",)), key=lambda pair: pair[0])]
    pictures = [file for file in found if file.name.lower().endswith(SUFFIXES)]
    if not pictures:
        raise UsageError(f"'{place}' holds no pictures, must hold one of {', '.join(SUFFIXES)}")
    return pictures


def _outside(output: Path, pictures: Iterable[Path]) -> list[Path]:
    folder = output.resolve()
    return [p for p in pictures if p.is_file() and folder not in p.resolve().parents]


def place_outputs(pictures: Sequence[File], output: Path) -> list[Task]:
    """Where everything is written: below `output` as the pictures lie below the folder that they share.

    `a/street.jpg` and `b/street.jpg` stay apart by their folders, and `street.jpg` and `street.png` keep their
    suffixes, so no two pictures have one mask.

    Raises:
        UsageError: a mask would take the place of a picture.
    """
    places = [_place(picture) for picture in pictures]
    shared = os.path.commonpath([place.parent for place in places])
    below = [place.relative_to(shared) for place in places]
    # file systems that do not tell A from a would put two into one
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


def read_picture(path: File) -> NDArray[np.uint8]:
    """An RGB picture, `H×W×3`, upright: turned as the camera noted, as every viewer shows it.

    Raises:
        BrokenFileError: the file cannot be read or decoded, or has more than 8 bits per channel.
        UsageError: it lies in a bucket that cannot be read.
    """
    try:
        with path.open("rb") as stored, Image.open(stored) as file:
            if file.mode not in _EIGHT_BIT:
                raise BrokenFileError(
                    f"{path} holds values of mode {file.mode}, must hold 8 bits per channel"
                )
            return np.array(ImageOps.exif_transpose(file).convert("RGB"), np.uint8)
    except UsageError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        told = getattr(error, "strerror", None) or error
        if isinstance(error, UnidentifiedImageError):  # its own words name the copy on this node
            told = "it is no image of a known kind"
        raise BrokenFileError(f"{path} cannot be read: {told}") from error


def write_mask(path: Path, labels_hw: NDArray[np.uint8], palette: Sequence[Colour]) -> None:
    """A label map as PNG with a palette: its values are the classes, its colours the data set's."""
    mask = Image.fromarray(labels_hw, "P")
    mask.putpalette([channel for colour in palette for channel in colour])
    path.parent.mkdir(parents=True, exist_ok=True)
    mask.save(path)


def write_overlay(
    path: Path, image_hw3: NDArray[np.uint8], labels_hw: NDArray[np.uint8], palette: Sequence[Colour]
) -> None:
    """The picture with the classes' colours over it, as JPEG."""
    colours = np.asarray(palette, np.float32)[labels_hw]
    mixed = (1 - _OPACITY) * image_hw3 + _OPACITY * colours
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mixed.round().astype(np.uint8)).save(path, quality=90)


def write_class_table(path: Path, classes: Sequence[str], palette: Sequence[Colour]) -> None:
    """What the masks' values mean, as the class table of a `folder` data set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("value", "name", "red", "green", "blue"))
        table.writerows((value, name, *palette[value]) for value, name in enumerate(classes))
