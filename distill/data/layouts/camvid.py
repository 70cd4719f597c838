"""CamVid (Brostow et al., PRL 2009) in the 11 classes and the 367 / 101 / 233 pictures of SegNet.

It has labelled val and test sets, so val is the tune split and test the test split. Some papers report the test pictures
as "val".
"""

from __future__ import annotations

from distill.data.labels import LabelClass, LabelMap
from distill.data.layout import Layout, Source

CLASSES = (
    ("sky", (128, 128, 128)), ("building", (128, 0, 0)), ("pole", (192, 192, 128)), ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)), ("tree", (128, 128, 0)), ("sign", (192, 128, 128)), ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)), ("pedestrian", (64, 64, 0)), ("bicyclist", (0, 128, 192)),
)  # fmt: skip
"""Names and colours in the order of the values, as in SegNet's drawings."""


def layout() -> Layout:
    """The layout of CamVid."""
    return Layout(
        title="CamVid",
        licence="Motion-based Segmentation and Recognition Dataset (mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid); "
        "the page grants no licence",
        expected="SegNet's tutorial packs it: ROOT/{train,val,test}/*.png and ROOT/{trainannot,valannot,testannot}/*.png",
        label_map=LabelMap(
            tuple(LabelClass(value, *named) for value, named in enumerate(CLASSES)),
            frozenset({11}),
            advice="use the label files of 11 classes, not the 32 colours",
        ),
        train=Source("train", "trainannot", (".png",)),
        tune=Source("val", "valannot", (".png",)),
        test=Source("test", "testannot", (".png",)),
    )
