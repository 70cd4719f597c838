"""Published scores for the same pair and data set; shown beside the board, not ranked with it."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).parent / "published_numbers.csv"
_DATASETS = {
    "cityscapes": "cityscapes",
    "voc": "voc12aug",
    "ade": "ade20k",
    "camvid": "camvid11",
    "pascalcontext": "pascalcontext59",
    "coco2017": "coco2017-voc21",
    "coco": "cocostuff164k",
}
_SHORT = re.compile(r"^r(\d+)(v1s|d8)?$")


@dataclass(frozen=True)
class Published:
    """A published score. `miou` is text in points, because some sources give a range."""

    method: str
    miou: str
    recipe: str
    split: str
    source: str

    @property
    def is_student_alone(self) -> bool:
        """Whether the student was trained without a teacher."""
        return self.method.lower().startswith("none")


def method_key(name: str) -> str:
    """A method's name in a canonical spelling: `Af-DCD` and `af_dcd` are equal."""
    return re.sub(r"[^a-z0-9+]", "", name.lower())


def published_for(dataset: str, teacher: str, student: str) -> tuple[Published, ...]:
    """Published scores of this pair of architectures on this data set, in the order of the file."""
    wanted = _dataset(dataset), _architecture(teacher), _architecture(student)
    return tuple(score for place, score in _scores() if place == wanted and None not in place)


@cache
def _scores() -> tuple[tuple[tuple[str | None, ...], Published], ...]:
    def read() -> Iterator[tuple[tuple[str | None, ...], Published]]:
        with _FILE.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                place = _dataset(row["dataset"]), _architecture(row["teacher"]), _architecture(row["student"])
                score = Published(row["method"], row["miou"], row["recipe"], row["split"], row["source"])
                yield place, score

    return tuple(read())


def _dataset(name: str) -> str | None:
    """The published data set whose name the given name begins with; None if there is none."""
    return next((known for start, known in _DATASETS.items() if name.lower().startswith(start)), None)


def _architecture(name: str) -> str | None:
    """`head-backbone` in a canonical spelling: DeepLabV3-R101v1s and deeplabv3-resnet101 are equal."""
    parts = name.lower().split("-")
    if len(parts) < 2 or " " in name:
        return None
    head, backbone = parts[0], "-".join(parts[1:])
    short = _SHORT.match(backbone)
    if short:
        backbone = f"resnet{short[1]}"
    if head == "segformer":
        backbone = backbone.removeprefix("mit_")
    backbone = re.sub(r"_100$|[^a-z0-9]", "", backbone.replace("large", "l").replace("small", "s"))
    return f"{head}-{backbone}"
