"""Cityscapes (Cordts et al., CVPR 2016), as unpacked.

Whole cities are held out for tuning, because pictures of one city are similar. With the default share and seed these are
cologne and monchengladbach, 248 of 2975 pictures. The public val set is the test split, because the labels of the
official test set are not public.
"""

from __future__ import annotations

from distill.data.config import CityscapesConfig
from distill.data.labels import LabelClass, LabelMap
from distill.data.layout import Layout, Source

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
"""In the order of the train ids, 0 to 18. All other values of `labelIds` files, 0 to 33, are ignored."""

IMAGE_FOLDER, LABEL_FOLDER = "leftImg8bit", "gtFine"
IMAGE_SUFFIX, LABEL_SUFFIX = "_leftImg8bit.png", "_gtFine_labelIds.png"


def layout(config: CityscapesConfig) -> Layout:
    """The layout of Cityscapes."""
    return Layout(
        title="Cityscapes",
        licence="Cityscapes: License Agreement (cityscapes-dataset.com/license)",
        expected=f"unpacked: ROOT/{IMAGE_FOLDER}/{{train,val}}/CITY/*{IMAGE_SUFFIX} and "
        f"ROOT/{LABEL_FOLDER}/{{train,val}}/CITY/*{LABEL_SUFFIX}",
        label_map=LabelMap(
            LABEL_CLASSES,
            ignored=frozenset(range(34)) - {label.value for label in LABEL_CLASSES},
            advice=f"use the *{LABEL_SUFFIX} files as released",
        ),
        train=_source("train"),
        test=_source("val"),
        group_of=_city,
        group_words=("city", "cities"),
        named_groups=config.tune_cities,
    )


def _source(folder: str) -> Source:
    return Source(f"{IMAGE_FOLDER}/{folder}", f"{LABEL_FOLDER}/{folder}", (IMAGE_SUFFIX,), LABEL_SUFFIX)


def _city(key: str) -> str:
    return key.split("/")[0]
