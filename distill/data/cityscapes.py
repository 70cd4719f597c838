"""Cityscapes, read from disk as it is unpacked (Cordts et al., CVPR 2016).

The pictures are `leftImg8bit/{train,val}/CITY/*_leftImg8bit.png`, their labels
`gtFine/{train,val}/CITY/*_gtFine_labelIds.png`. The public val set is the test split, since the labels of the
real test set are not public.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from distill.data.config import CityscapesConfig
from distill.data.dataset import IGNORE_INDEX, Protocol, Role, Sample, Split
from distill.data.randomness import permutation
from distill.errors import UsageError, unknown


class LabelClass(NamedTuple):
    """A class that counts: its value in `labelIds` files, its name, its colour."""

    label_id: int
    name: str
    colour: tuple[int, int, int]


LABEL_CLASSES = (
    LabelClass(7, "road", (128, 64, 128)),
    LabelClass(8, "sidewalk", (244, 35, 232)),
    LabelClass(11, "building", (70, 70, 70)),
    LabelClass(12, "wall", (102, 102, 156)),
    LabelClass(13, "fence", (190, 153, 153)),
    LabelClass(17, "pole", (153, 153, 153)),
    LabelClass(19, "traffic light", (250, 170, 30)),
    LabelClass(20, "traffic sign", (220, 220, 0)),
    LabelClass(21, "vegetation", (107, 142, 35)),
    LabelClass(22, "terrain", (152, 251, 152)),
    LabelClass(23, "sky", (70, 130, 180)),
    LabelClass(24, "person", (220, 20, 60)),
    LabelClass(25, "rider", (255, 0, 0)),
    LabelClass(26, "car", (0, 0, 142)),
    LabelClass(27, "truck", (0, 0, 70)),
    LabelClass(28, "bus", (0, 60, 100)),
    LabelClass(31, "train", (0, 80, 100)),
    LabelClass(32, "motorcycle", (0, 0, 230)),
    LabelClass(33, "bicycle", (119, 11, 32)),
)
"""In the order of the train ids, 0 to 18."""

LAST_LABEL_ID = 33
"""`labelIds` files hold 0 … 33; those not in `LABEL_CLASSES` are ignored."""

IMAGE_FOLDER, LABEL_FOLDER = "leftImg8bit", "gtFine"
IMAGE_SUFFIX, LABEL_SUFFIX = "_leftImg8bit.png", "_gtFine_labelIds.png"

_TRAIN_ID = np.full(256, IGNORE_INDEX, np.uint8)
_TRAIN_ID[[label.label_id for label in LABEL_CLASSES]] = np.arange(len(LABEL_CLASSES))
_LAYOUT = (
    f"ROOT/{IMAGE_FOLDER}/{{train,val}}/CITY/*{IMAGE_SUFFIX} and "
    f"ROOT/{LABEL_FOLDER}/{{train,val}}/CITY/*{LABEL_SUFFIX}"
)


class Pair(NamedTuple):
    """A picture and its label map on disk."""

    image: Path
    labels: Path
    city: str
    key: str


def find_pairs(root: Path, folder: str) -> list[Pair]:
    """All labelled pictures of `train` or `val`, by city and name.

    Raises:
        UsageError: a folder is missing, there are no pictures, or a file has no partner.
    """
    images = _files(root, IMAGE_FOLDER, folder, IMAGE_SUFFIX)
    labels = _files(root, LABEL_FOLDER, folder, LABEL_SUFFIX)
    unlabelled, unseen = sorted(images.keys() - labels.keys()), sorted(labels.keys() - images.keys())
    if unlabelled or unseen:
        raise UsageError(_unpaired(root, folder, unlabelled, unseen))
    if not images:
        raise UsageError(
            f"no pictures under {root / IMAGE_FOLDER / folder}, must hold CITY/*{IMAGE_SUFFIX}; "
            f"Cityscapes is read as it is unpacked: {_LAYOUT}"
        )
    return [Pair(images[key], labels[key], key.split("/")[0], key) for key in sorted(images)]


def _files(root: Path, kind: str, folder: str, suffix: str) -> dict[str, Path]:
    place = root / kind / folder
    for level in (root, root / kind, place):
        if not level.is_dir():
            parent = level.parent
            found = sorted(child.name for child in parent.iterdir()) if parent.is_dir() else []
            there = f"{parent} holds {', '.join(found[:8]) or 'nothing'}" + (" …" if len(found) > 8 else "")
            if not parent.is_dir():
                there = f"{parent} does not exist either"
            raise UsageError(
                f"folder {level} does not exist; {there}. Expected Cityscapes as unpacked: {_LAYOUT}"
            )
    return {
        f"{path.parent.name}/{path.name.removesuffix(suffix)}": path for path in place.glob(f"*/*{suffix}")
    }


def _unpaired(root: Path, folder: str, unlabelled: list[str], unseen: list[str]) -> str:
    parts = []
    for keys, have, lack, kind, suffix in (
        (unlabelled, "pictures", "label map", LABEL_FOLDER, LABEL_SUFFIX),
        (unseen, "label maps", "picture", IMAGE_FOLDER, IMAGE_SUFFIX),
    ):
        if keys:
            first = root / kind / folder / f"{keys[0]}{suffix}"
            parts.append(f"{len(keys)} {have} of {folder} have no {lack} (first: {first} is missing)")
    return "; ".join(parts) + ". Unpack both archives again, or remove what has no partner."


def tune_cities(config: CityscapesConfig, cities: dict[str, int]) -> tuple[str, ...]:
    """The train cities that the clean protocol holds out for tuning.

    Whole cities, since pictures of one city are near copies of each other. Those that `config` names, or
    else, in an order by `tune_seed`, each that still fits into `tune_share` of the pictures. With the real
    cities and the default share and seed these are
    cologne and monchengladbach, 248 of 2975 pictures.

    Args:
        config: names, or seed and share.
        cities: pictures per train city.

    Raises:
        UsageError: a named city is not there, or no city would be left to train on.
    """
    if len(cities) < 2:
        raise UsageError(
            f"{config.root} has 1 train city ({', '.join(cities)}), the clean protocol needs at least 2 "
            "to hold one out for tuning; add a city, or set protocol: paper"
        )
    if config.tune_cities is not None:
        for city in config.tune_cities:
            if city not in cities:
                raise unknown("tune city", city, cities)
        if not 0 < len(set(config.tune_cities)) < len(cities):
            raise UsageError(
                f"tune_cities names {len(set(config.tune_cities))} of {len(cities)} train cities, "
                "must name at least one and leave at least one"
            )
        return tuple(sorted(set(config.tune_cities)))
    order = sorted(cities, key=lambda city: hashlib.sha256(f"{config.tune_seed}/{city}".encode()).digest())
    room, chosen = config.tune_share * sum(cities.values()), []
    for city in order:
        if cities[city] <= room:
            chosen.append(city)
            room -= cities[city]
    chosen = chosen or [min(order, key=cities.__getitem__)]
    return tuple(sorted(chosen))


def _select(config: CityscapesConfig, split: Split, protocol: Protocol, role: Role) -> list[Pair]:
    if split == "test" or (split == "tune" and protocol == "paper"):
        return find_pairs(config.root, "val")
    pairs = find_pairs(config.root, "train")
    if protocol == "clean":
        cities: dict[str, int] = {}
        for pair in pairs:
            cities[pair.city] = cities.get(pair.city, 0) + 1
        held_out = tune_cities(config, cities)
        pairs = [pair for pair in pairs if (pair.city in held_out) == (split == "tune")]
    if split == "train" and role == "student" and config.student_images is not None:
        if config.student_images > len(pairs):
            raise UsageError(
                f"student_images is {config.student_images}, must be at most {len(pairs)}, "
                f"the train pictures of the {protocol} protocol under {config.root}"
            )
        order = permutation(config.tune_seed, "cityscapes/student", 0, len(pairs))
        pairs = [pairs[i] for i in sorted(order[: config.student_images])]
    return pairs


def read_image(path: Path) -> NDArray[np.uint8]:
    """An RGB picture, `H×W×3`. Raises `UsageError` naming the file where it is none."""
    return np.ascontiguousarray(_decode(path, cv2.IMREAD_COLOR)[..., ::-1])


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Train ids, `H×W`, of a `labelIds` file. Raises `UsageError` naming file and value if one is wrong."""
    label_ids = _decode(path, cv2.IMREAD_UNCHANGED)
    if label_ids.ndim != 2:
        raise UsageError(
            f"{path} has {label_ids.shape[2]} channels, must be a grey label map; "
            f"use the *{LABEL_SUFFIX} files as released, not the coloured ones"
        )
    if int(label_ids.max()) > LAST_LABEL_ID:
        raise UsageError(
            f"{path} holds label {int(label_ids.max())}, must be from 0 to {LAST_LABEL_ID}; "
            f"use the *{LABEL_SUFFIX} files as released"
        )
    return _TRAIN_ID[label_ids]


def _decode(path: Path, mode: int) -> NDArray[np.uint8]:
    # decoded from memory: cv2.imread only warns, and cannot tell a missing file from a broken one
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    picture = cv2.imdecode(data, mode) if len(data) else None
    if picture is None:
        raise UsageError(f"{path} is not an image ({len(data)} bytes); unpack it again")
    if picture.dtype != np.uint8:
        raise UsageError(f"{path} holds {picture.dtype} values, must hold 8 bits; unpack it again")
    return np.asarray(picture, np.uint8)


class CityscapesDataset:
    """The labelled pictures of one split, decoded when asked for."""

    name = "cityscapes"
    ignore_index = IGNORE_INDEX
    classes = tuple(label.name for label in LABEL_CLASSES)
    num_classes = len(LABEL_CLASSES)
    palette = tuple(label.colour for label in LABEL_CLASSES)

    def __init__(
        self, config: CityscapesConfig, split: Split, *, protocol: Protocol = "clean", role: Role = "student"
    ) -> None:
        self.config = config
        self.pairs = _select(config, split, protocol, role)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image, labels = read_image(pair.image), read_labels(pair.labels)
        if image.shape[:2] != labels.shape:
            raise UsageError(size_mismatch(pair, image.shape[:2], labels.shape))
        return Sample(image, labels, pair.key)


def size_mismatch(pair: Pair, image: tuple[int, ...], labels: tuple[int, ...]) -> str:
    """The message for a picture and a label map of different sizes (height, width)."""
    return (
        f"{pair.image} is {image[0]}×{image[1]} and {pair.labels} is {labels[0]}×{labels[1]}, "
        "must be of one size; unpack both again"
    )
