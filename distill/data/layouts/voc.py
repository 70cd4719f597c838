"""Pascal VOC 2012 (Everingham et al., IJCV 2010) with the labels of SBD (Hariharan et al., ICCV 2011), "VOC aug".

Train is every label file in `SegmentationClassAug` that VOC's val list does not name: 10582 of 12031. Many copies
lack a list of train names; none is needed. Val keeps VOC's own labels. The background counts as a class.
"""

from __future__ import annotations

from distill.data.config import VocConfig
from distill.data.labels import LabelMap, numbered
from distill.data.layout import Layout, Source

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

VAL_LIST = "ImageSets/Segmentation/val.txt"


def layout(config: VocConfig) -> Layout:
    """The layout of VOC aug."""
    return Layout(
        title="Pascal VOC 2012",
        licence="The PASCAL Visual Object Classes Challenge 2012: Database Rights (host.robots.ox.ac.uk/pascal/VOC/voc2012); "
        "Semantic Boundaries Dataset (for SegmentationClassAug)",
        expected=f"unpacked: ROOT/JPEGImages/*.jpg, ROOT/SegmentationClass/*.png, ROOT/{VAL_LIST} "
        f"and the train labels in ROOT/{config.train_labels}/*.png, where ROOT is VOCdevkit/VOC2012",
        label_map=LabelMap(
            numbered(CLASSES), frozenset({255}), advice="use the palette or grey PNG files as released"
        ),
        train=Source("JPEGImages", config.train_labels, unlisted=VAL_LIST),
        test=Source("JPEGImages", "SegmentationClass", listed=VAL_LIST),
    )
