"""ADE20K, the scene parsing benchmark SceneParse150 (Zhou et al., CVPR 2017), as `ADEChallengeData2016` unpacks."""

from __future__ import annotations

from distill.data.labels import LabelMap, numbered
from distill.data.layout import Layout, Source

CLASSES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet", "sidewalk",
    "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water", "painting", "sofa",
    "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp",
    "bathtub", "railing", "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter", "sand",
    "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs", "runway", "case", "pool table",
    "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet", "flower",
    "book", "hill", "bench", "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar",
    "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight",
    "booth", "television receiver", "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator",
    "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer",
    "plaything", "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven",
    "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher",
    "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier",
    "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)  # fmt: skip
"""Values 1 to 150 in label files; 0 is ignored."""


def layout() -> Layout:
    """The layout of ADE20K."""
    return Layout(
        title="ADE20K",
        licence="ADE20K: Terms of Use (groups.csail.mit.edu/vision/datasets/ADE20K/terms)",
        expected="ADEChallengeData2016 unpacks: ROOT/images/{training,validation}/*.jpg and "
        "ROOT/annotations/{training,validation}/*.png",
        label_map=LabelMap(
            numbered(CLASSES, first=1),
            frozenset({0}),
            advice="use the label files of the scene parsing benchmark, not the full ADE20K or shifted copies",
        ),
        train=Source("images/training", "annotations/training"),
        test=Source("images/validation", "annotations/validation"),
    )
