"""A good folder of pictures, and changes of it that make the oddities of people's folders."""

from __future__ import annotations

import io
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NAMES = tuple(f"p{number}" for number in range(6))
TRAIN, TEST = NAMES[:4], NAMES[4:]
COLOURS = np.array([[40, 40, 160], [220, 200, 60], [60, 180, 60]], np.uint8)


def drawn(number: int, height: int = 24, width: int = 32) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture and its labels: left 0, right 1, a stripe on top 2; no two are alike and none is symmetric."""
    labels_hw = np.zeros((height, width), np.uint8)
    labels_hw[:, width // 2 + number :] = 1
    labels_hw[: height // 4] = 2
    noise = np.random.default_rng(number).normal(0, 6, (height, width, 3))
    return np.clip(COLOURS[labels_hw] + noise, 0, 255).astype(np.uint8), labels_hw


def write_base(root: Path) -> None:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(NAMES):
        image_hw3, labels_hw = drawn(number)
        Image.fromarray(image_hw3).save(root / f"images/{name}.jpg", quality=95, subsampling=0)
        Image.fromarray(labels_hw).save(root / f"masks/{name}.png")
    (root / "classes.csv").write_text("value,name\n0,dark\n1,bright\n2,top\n")
    for split, names in (("train", TRAIN), ("test", TEST)):
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")


Change = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A change of a good folder: the message that refuses it, or the note, names, pictures and labels with which it is read."""

    change: Change
    refused: tuple[str, ...] = ()
    note: str = ""
    keys: tuple[str, ...] = NAMES
    options: dict[str, Any] = field(default_factory=dict)
    picture: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = lambda image_hw3: image_hw3
    labels: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = lambda labels_hw: labels_hw


def nothing(root: Path) -> None:
    return


def files(
    change: Callable[[Path, int], object], folder: str, chosen: tuple[int, ...] = tuple(range(6))
) -> Change:
    """Apply a change to the files of a folder, with their numbers."""

    def apply(root: Path) -> None:
        found = sorted((root / folder).iterdir())
        for number in chosen:
            change(found[number], number)

    return apply


def pictures(save: Callable[[Path, Image.Image], object]) -> Change:
    return files(lambda path, number: save(path, Image.fromarray(drawn(number)[0])), "images")


def masks(
    make: Callable[[NDArray[np.uint8], int], bytes | Image.Image], chosen: tuple[int, ...] = tuple(range(6))
) -> Change:
    def write(path: Path, number: int) -> None:
        made = make(drawn(number)[1], number)
        path.write_bytes(made) if isinstance(made, bytes) else made.save(path, "PNG")

    return files(write, "masks", chosen)


def names(folder: str, new: Callable[[Path], str]) -> Change:
    return files(lambda path, _: path.rename(path.with_name(new(path))), folder)


def lists(line: Callable[[str], str], encoding: str = "utf-8", root_first: bool = False) -> Change:
    """Write each name of the lists in another way; `{root}` is the folder."""

    def apply(root: Path) -> None:
        for split, listed in (("train", TRAIN), ("test", TEST)):
            text = "".join(line(name).replace("{root}", str(root)) + "\n" for name in listed)
            (root / f"{split}.txt").write_bytes(text.encode(encoding))

    return apply


def table(text: str, encoding: str = "utf-8") -> Change:
    return lambda root: (root / "classes.csv").write_bytes(text.encode(encoding))


def both(*changes: Change) -> Change:
    return lambda root: [change(root) for change in changes]


def cut(share: float) -> Callable[[Path, int], object]:
    return lambda path, _: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def zeroed(path: Path, _: int) -> None:
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    data[half:-2] = bytes(len(data) - 2 - half)
    path.write_bytes(data)


def palette_mask(labels_hw: NDArray[np.uint8], order: list[int]) -> Image.Image:
    """A palette mask in which class c has the index `order[c]` and always the same colour."""
    picture = Image.fromarray(np.array(order, np.uint8)[labels_hw], "P")
    colours = np.zeros((256, 3), np.uint8)
    colours[order] = COLOURS
    picture.putpalette(colours.tobytes())
    return picture


def jpeg(labels_hw: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(labels_hw * 20).save(file, "JPEG")
    return file.getvalue()


def into_clip(root: Path) -> None:
    for folder in ("images", "masks"):
        (root / folder / "clip1").mkdir()
        for path in [*(root / folder).glob("*.*")]:
            path.rename(root / folder / "clip1" / path.name)


def into_folder(root: Path) -> None:
    (root / "deeper").mkdir()
    for path in [*root.iterdir()]:
        if path.name != "deeper":
            path.rename(root / "deeper" / path.name)


def named(form: str) -> Callable[[Path], str]:
    """Names with an umlaut in a form of Unicode."""
    return lambda path: unicodedata.normalize(form, f"ä{path.name}")


def linked(root: Path) -> None:
    for folder in ("images", "masks"):
        store = root / f"store_{folder}"
        (root / folder).rename(store)
        (root / folder).symlink_to(store)


def looped(root: Path) -> None:
    for folder in ("images", "masks"):
        for name in "abcdefgh":  # followed, eight links make 8⁴⁰ folders
            (root / folder / name).symlink_to(root / folder)


def litter(root: Path) -> None:
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        for place in (root / folder, root / folder / "@eaDir", root / folder / ".ipynb_checkpoints"):
            place.mkdir(exist_ok=True)
            (place / f"._p0.{suffix}").write_bytes(b"\0\5\26\7")
            (place / f"._p0.{suffix}").with_name(
                "p0-thumb.jpg" if place != root / folder else "._x"
            ).write_bytes(b"")


def copied(root: Path) -> None:
    """The picture p1 of train once more under the name p4, in test."""
    shutil.copy(root / "images/p1.jpg", root / "images/p4.jpg")
    shutil.copy(root / "masks/p1.png", root / "masks/p4.png")


def saved_again(root: Path) -> None:
    """The picture p1 of train once more under the name p4, in test: twice as large, and as another JPEG."""
    for old, new, options in (
        ("images/p1.jpg", "images/p4.jpg", {"quality": 70}),
        ("masks/p1.png", "masks/p4.png", {}),
    ):
        picture = Image.open(root / old)
        picture.resize((64, 48), Image.Resampling.NEAREST).save(root / new, **options)
