"""gallery.html: test images side by side in one file that works offline and on a phone."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.leaderboard.gallery_pictures import RULE, ChosenPicture, PairGallery
from orchestrator.leaderboard.html import templates
from orchestrator.leaderboard.number_formats import points, signed

Colour = tuple[int, int, int]

BOTH_RIGHT, METHOD_RIGHT, ALONE_RIGHT, BOTH_WRONG, IGNORED = range(5)
DIFFERENCES: tuple[tuple[str, Colour], ...] = (
    ("both right", (222, 226, 232)),
    ("the method right, the student alone wrong", (0, 114, 178)),
    ("the student alone right, the method wrong", (213, 94, 0)),
    ("both wrong", (70, 74, 82)),
    ("ignored", (255, 255, 255)),
)
"""The meaning and colour of each value in the difference image; the colours suit colour-blind readers."""


@dataclass(frozen=True)
class Drawing:
    """The bytes of an image file, with a caption; `kind` is its MIME subtype."""

    caption: str
    kind: str
    data: bytes

    @property
    def address(self) -> str:
        """The image as a data URI."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class Panel:
    """One test image: its name in the data set, its scores, and its drawings from left to right.

    `small` images are shown enlarged, with visible pixels.
    """

    chosen: ChosenPicture
    key: str
    drawings: tuple[Drawing, ...]
    small: bool
    teacher_miou: float

    @property
    def title(self) -> str:
        """Why the image was chosen, and its gain."""
        return f"{self.chosen.reason.capitalize()}: {signed(self.chosen.gain)}"

    @property
    def scores(self) -> str:
        """mIoU of the teacher and of both runs on the image, in points."""
        return f"teacher {points(self.teacher_miou)}, {points(self.chosen.alone_miou)} alone, {points(self.chosen.method_miou)} with the method"


@dataclass(frozen=True)
class PairSection:
    """The panels of one pair, with the classes that occur in them and their colours."""

    gallery: PairGallery
    panels: tuple[Panel, ...]
    classes: tuple[tuple[str, Colour], ...]


def gallery_html(sections: Sequence[PairSection], notes: Sequence[str], command: str, title: str) -> str:
    """The whole page.

    Args:
        sections: the pairs.
        notes: what is left out, and why.
        command: the command that makes the page.
        title: name and day of the run.
    """
    template = templates().get_template("gallery.html.j2")
    return template.render(
        sections=sections, notes=notes, title=title, rule=RULE, differences=DIFFERENCES, command=command
    )
