"""CamVid (Brostow et al., PRL 2009) in the 11 classes and the 367 / 101 / 233 pictures of SegNet.

It has labelled val and test sets, so val is the tune split and test the test split. Some papers report the test pictures
as "val".
"""

from __future__ import annotations

from distill.data.labels import LabelMap, numbered
from distill.data.layout import Layout, Source

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip


def layout() -> Layout:
    """The layout of CamVid."""
    return Layout(
        title="CamVid",
        licence="Motion-based Segmentation and Recognition Dataset (mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid); "
        "the page grants no licence",
        expected="SegNet's tutorial packs it: ROOT/{train,val,test}/*.png and ROOT/{trainannot,valannot,testannot}/*.png",
        label_map=LabelMap(
            numbered(CLASSES), frozenset({11}), advice="use the label files of 11 classes, not the 32 colours"
        ),
        train=Source("train", "trainannot", (".png",)),
        tune=Source("val", "valannot", (".png",)),
        test=Source("test", "testannot", (".png",)),
    )
