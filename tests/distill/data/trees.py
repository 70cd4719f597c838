"""Small data sets on disk, in the real layouts, for tests of whatever reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.data import ScenesConfig
from distill.data.config import SCENE_CLASSES
from distill.data.scenes import draw_scene

CITYSCAPES_ID = {
    "sky": 23, "building": 11, "road": 7, "sidewalk": 8, "vegetation": 21, "car": 26, "person": 24, "pole": 17, "sign": 20,
}  # fmt: skip

CITIES = {"train": {"aachen": 4, "bochum": 3, "ulm": 2}, "val": {"frankfurt": 3, "lindau": 2}}


class Writer:
    """Writes generated scenes one after another, in any layout, with the label values of that layout."""

    def __init__(
        self, root: Path, values: Sequence[int], ignored: int, size: tuple[int, int], seed: int = 0
    ) -> None:
        self.root = root
        self.config = ScenesConfig(size=size, seed=seed, ignore_border=1)
        self.values = np.full(256, ignored, np.uint8)
        self.values[: len(values)] = values
        self.number = 0

    def write(self, image: str, labels: str, *, palette: bool = False, stream: str = "train") -> None:
        """The next scene as two files below the root."""
        image_hw3, labels_hw = draw_scene(self.config, stream, self.number)  # type: ignore[arg-type]
        self.number += 1
        for name in (image, labels):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(self.root / image), image_hw3[..., ::-1])
        write_labels(self.root / labels, self.values[labels_hw], palette=palette)


def write_labels(path: Path, values_hw: NDArray[np.uint8], *, palette: bool = False) -> None:
    """A label file; with a palette its pixels look like colours and are indices."""
    picture = Image.fromarray(values_hw)
    if palette:
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    picture.save(path)


def write_cityscapes_tree(
    root: Path,
    cities: Mapping[str, Mapping[str, int]] = CITIES,
    *,
    size: tuple[int, int] = (64, 128),
    seed: int = 0,
) -> Path:
    """Cityscapes; what is ignored is value 0, "unlabeled". Returns the root."""
    writer = Writer(root, [CITYSCAPES_ID[name] for name in SCENE_CLASSES], 0, size, seed)
    for folder, counts in cities.items():
        for city, count in counts.items():
            for frame in range(count):
                name = f"{folder}/{city}/{city}_{frame:06d}_000019"
                writer.write(
                    f"leftImg8bit/{name}_leftImg8bit.png", f"gtFine/{name}_gtFine_labelIds.png", stream=folder
                )
    return root


def write_voc_tree(root: Path, train: int = 8, val: int = 3, size: tuple[int, int] = (48, 64)) -> Path:
    """VOC aug: own labels with a palette, SBD's without, and a picture without labels, as there are many."""
    writer = Writer(root, [0, 1, 2, 5, 7, 15, 18, 19, 20], 255, size)
    for number in range(train):
        writer.write(f"JPEGImages/2008_{number:06d}.jpg", f"SegmentationClassAug/2008_{number:06d}.png")
    names = [f"2007_{number:06d}" for number in range(val)]
    for name in names:
        writer.write(f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png", palette=True)
        aug = root / f"SegmentationClassAug/{name}.png"
        aug.write_bytes((root / f"SegmentationClass/{name}.png").read_bytes())
    (root / "JPEGImages/2012_000001.jpg").write_bytes((root / "JPEGImages/2007_000000.jpg").read_bytes())
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names) + "\n")
    return root


def write_ade20k_tree(root: Path, train: int = 8, val: int = 3, size: tuple[int, int] = (48, 64)) -> Path:
    """ADE20K: 0 is ignored, classes count from 1."""
    writer = Writer(root, [3, 2, 7, 12, 5, 21, 13, 94, 44], 0, size)
    for folder, count in (("training", train), ("validation", val)):
        for number in range(count):
            name = f"{folder}/ADE_{folder[:-3]}_{number:08d}"
            writer.write(f"images/{name}.jpg", f"annotations/{name}.png")
    return root


def write_camvid_tree(root: Path, train: int = 4, val: int = 2, test: int = 3) -> Path:
    """CamVid: 11 is ignored."""
    writer = Writer(root, [0, 1, 3, 4, 5, 8, 9, 2, 6], 11, (48, 64))
    for folder, count in (("train", train), ("val", val), ("test", test)):
        for number in range(count):
            name = f"{folder[:2]}0001TP_{number:06d}.png"
            writer.write(f"{folder}/{name}", f"{folder}annot/{name}")
    return root


def write_cocostuff_tree(root: Path, train: int = 4, val: int = 2) -> Path:
    """COCO-Stuff: values are category ids less 1, up to 181; 255 is ignored."""
    writer = Writer(root, [156, 95, 148, 139, 168, 2, 0, 181, 12], 255, (48, 64))
    for folder, count in (("train2017", train), ("val2017", val)):
        for number in range(count):
            name = f"{folder}/{number + (0 if folder[0] == 't' else 500):012d}"
            writer.write(f"images/{name}.jpg", f"annotations/{name}.png")
    return root


def write_folder_tree(root: Path, train: int = 8, test: int = 3, size: tuple[int, int] = (40, 56)) -> Path:
    """Pictures of one's own: PNG and JPEG mixed, a class table, lists of names."""
    writer = Writer(root, [10 * label for label in range(9)], 255, size)
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            name = f"clip{number // 2}/{split}{number}"
            writer.write(f"images/{name}.{'png' if number % 2 else 'jpg'}", f"masks/{name}.png")
            lists[split].append(name)
    for split, names in lists.items():
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")
    rows = [f"{10 * label},{name},{label},0,255" for label, name in enumerate(SCENE_CLASSES)]
    (root / "classes.csv").write_text("\n".join(["value,name,red,green,blue", *rows]) + "\n")
    return root
