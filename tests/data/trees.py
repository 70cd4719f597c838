"""Small data sets on disk, in the real layout, for tests of whatever reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from distill.data import ScenesConfig
from distill.data.cityscapes import (
    IMAGE_FOLDER,
    IMAGE_SUFFIX,
    LABEL_CLASSES,
    LABEL_FOLDER,
    LABEL_SUFFIX,
)
from distill.data.config import SCENE_CLASSES
from distill.data.scenes import draw_scene

LABEL_ID = {label.name: label.label_id for label in LABEL_CLASSES}
LABEL_ID["sign"] = LABEL_ID["traffic sign"]

CITIES = {"train": {"aachen": 4, "bochum": 3, "ulm": 2}, "val": {"frankfurt": 3, "lindau": 2}}


def write_cityscapes_tree(
    root: Path,
    cities: Mapping[str, Mapping[str, int]] = CITIES,
    *,
    size: tuple[int, int] = (64, 128),
    seed: int = 0,
) -> Path:
    """Writes generated scenes as Cityscapes: its folders, names and label ids. Returns the root."""
    config = ScenesConfig(size=size, seed=seed, ignore_border=1)
    label_ids = np.zeros(256, np.uint8)  # what is ignored becomes 0, "unlabeled"
    label_ids[: len(SCENE_CLASSES)] = [LABEL_ID[name] for name in SCENE_CLASSES]
    number = 0
    for folder, counts in cities.items():
        for city, count in counts.items():
            images, labels = (root / kind / folder / city for kind in (IMAGE_FOLDER, LABEL_FOLDER))
            images.mkdir(parents=True, exist_ok=True)
            labels.mkdir(parents=True, exist_ok=True)
            for frame in range(count):
                image_hw3, labels_hw = draw_scene(config, folder, number)
                number += 1
                name = f"{city}_{frame:06d}_000019"
                cv2.imwrite(str(images / f"{name}{IMAGE_SUFFIX}"), image_hw3[..., ::-1])
                cv2.imwrite(str(labels / f"{name}{LABEL_SUFFIX}"), label_ids[labels_hw])
    return root
