"""gallery.html: test pictures side by side, one file that works offline and on a phone."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.leaderboard.gallery_pictures import RULE, Chosen, PairGallery
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
"""What the last drawing's values mean, and their colours, told apart by all kinds of eyes."""


@dataclass(frozen=True)
class Drawing:
    """An image file's bytes with its caption."""

    caption: str
    kind: str
    data: bytes

    @property
    def address(self) -> str:
        """The image as a part of the page."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class Panel:
    """One test picture: its name in the data set, its scores, and its drawings from left to right.

    `small` tells that a screen shows it enlarged, pixel by pixel.
    """

    chosen: Chosen
    key: str
    drawings: tuple[Drawing, ...]
    small: bool

    @property
    def title(self) -> str:
        """Why it is here and what it scored."""
        return f"{self.chosen.reason.capitalize()}: {signed(self.chosen.gain)}"

    @property
    def scores(self) -> str:
        """Both runs' mIoU on it, in points."""
        return f"{points(self.chosen.alone_miou)} alone, {points(self.chosen.method_miou)} with the method"


@dataclass(frozen=True)
class Room:
    """A pair's panels, with the classes that are seen in them."""

    exhibit: PairGallery
    panels: tuple[Panel, ...]
    classes: tuple[tuple[str, Colour], ...]


def gallery_html(rooms: Sequence[Room], notes: Sequence[str], command: str) -> str:
    """The whole page; `notes` tell what is left out and why, `command` is the one that made it."""
    template = templates().get_template("gallery.html.j2")
    return template.render(rooms=rooms, notes=notes, rule=RULE, differences=DIFFERENCES, command=command)
