"""gallery.html: test images side by side in one file that works offline and on a phone."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.leaderboard.gallery_pictures import RULE, ChosenPicture, PairGallery
from orchestrator.leaderboard.gallery_runs import RunTable
from orchestrator.leaderboard.html import templates
from orchestrator.leaderboard.number_formats import points, signed

Colour = tuple[int, int, int]

RUN_PAGES = "gallery"
"""Folder of the pages of single runs, beside the first page."""

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
        reason = "gain" if self.chosen.chosen_by else self.chosen.reason
        return f"{reason.capitalize()}: {signed(self.chosen.gain)}"

    @property
    def origin(self) -> str:
        """Name of the image, and the run whose gains decided that it is shown, if it is another run's."""
        by = self.chosen.chosen_by
        return f"{self.key} · chosen as {self.chosen.reason} of {by}" if by else self.key

    @property
    def scores(self) -> str:
        """mIoU of the teacher and of both runs on the image, in points."""
        return f"teacher {points(self.teacher_miou)}, {points(self.chosen.alone_miou)} alone, {points(self.chosen.method_miou)} with the method"


@dataclass(frozen=True)
class PairSection:
    """The panels of one run of a pair, with the classes that occur in them and their colours."""

    gallery: PairGallery
    panels: tuple[Panel, ...]
    classes: tuple[tuple[str, Colour], ...]

    @property
    def bytes(self) -> int:
        """Size of the drawings on a page."""
        return sum(len(drawing.address) for panel in self.panels for drawing in panel.drawings)


def page_of(trial_id: str) -> str:
    """Path of a run's page, relative to the leaderboard."""
    return f"{RUN_PAGES}/{trial_id}.html"


def gallery_html(
    sections: Sequence[tuple[PairSection, RunTable]], notes: Sequence[str], command: str, title: str
) -> str:
    """The first page: the first pictures of each pair, and links to the pages of its runs.

    Args:
        sections: the pairs, each with its runs.
        notes: what is left out, and why.
        command: the command that makes the page.
        title: name and day of the run.
    """
    return _render(sections, notes, command, title, shown="")


def run_html(section: PairSection, runs: RunTable, command: str, title: str) -> str:
    """The page of one run of a pair: all pictures, and links to the pages of the pair's other runs.

    Args:
        section: the run.
        runs: the pair's runs.
        command: the command that makes the page, typed in the folder of the first page.
        title: name and day of the run.
    """
    return _render([(section, runs)], (), command, title, shown=section.gallery.method.trial_id)


def _render(
    sections: Sequence[tuple[PairSection, RunTable]],
    notes: Sequence[str],
    command: str,
    title: str,
    *,
    shown: str,
) -> str:
    """A page; `shown` is the trial that a page of one run shows, and empty on the first page."""
    template = templates().get_template("gallery.html.j2")
    return template.render(
        sections=sections,
        notes=notes,
        title=title,
        rule=RULE,
        differences=DIFFERENCES,
        command=command,
        shown=shown,
        above="../" if shown else "",
        pages="" if shown else f"{RUN_PAGES}/",
    )
