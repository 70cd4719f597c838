"""COCO-Stuff 164k (Caesar et al., CVPR 2018): COCO 2017's pictures with 80 things and 91 kinds of stuff.

The values in label files are COCO's category ids less 1. Eleven of these ids occur in no picture and are not
classes; papers that average over 182 outputs are not comparable.
"""

from __future__ import annotations

from distill.data.labels import LabelMap, numbered
from distill.data.layout import Layout, Source

IDS = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "street sign", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "hat", "backpack", "umbrella", "shoe", "eye glasses", "handbag", "tie",
    "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard",
    "surfboard", "tennis racket", "bottle", "plate", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana",
    "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "mirror", "dining table", "window", "desk", "toilet", "door", "tv", "laptop", "mouse",
    "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "blender", "book",
    "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush", "hair brush", "banner", "blanket", "branch",
    "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet", "ceiling-other", "ceiling-tile",
    "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff", "dirt", "door-stuff", "fence",
    "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower", "fog", "food-other", "fruit",
    "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves", "light", "mat", "metal",
    "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow", "plant-other", "plastic",
    "platform", "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand", "sea",
    "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw", "structural-other", "table",
    "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick", "wall-concrete", "wall-other", "wall-panel",
    "wall-stone", "wall-tile", "wall-wood", "water-other", "waterdrops", "window-blind", "window-other", "wood",
)  # fmt: skip
"""Values 0 to 181 in label files."""

UNUSED = frozenset({11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90})
"""Values that occur in no label file: street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush."""


def layout() -> Layout:
    """The layout of COCO-Stuff."""
    return Layout(
        title="COCO-Stuff",
        licence="COCO: Terms of Use (cocodataset.org/#termsofuse); COCO-Stuff: License (github.com/nightrome/cocostuff)",
        expected="ROOT/images/{train2017,val2017}/*.jpg and, from stuffthingmaps_trainval2017, "
        "ROOT/annotations/{train2017,val2017}/*.png",
        label_map=LabelMap(
            tuple(label for label in numbered(IDS) if label.value not in UNUSED),
            frozenset({255}),
            advice="use the stuffthingmaps files as released",
        ),
        train=Source("images/train2017", "annotations/train2017"),
        test=Source("images/val2017", "annotations/val2017"),
    )
