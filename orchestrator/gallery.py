"""python -m orchestrator.gallery RUN: test pictures, labels and predictions side by side, beside the board."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from distill.command_line import DONE, USAGE, run_command


@dataclass(frozen=True)
class GalleryOptions:
    """Make the gallery of a run again, and its leaderboard, which links to it.

    leaderboard/gallery.html has for each pair three test pictures with label, teacher, student alone and best method, and
    links to a page of each final run of a method, with more pictures, in leaderboard/gallery/.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run: a path, or a URI such as s3://bucket/run. Its data must be where it was."""
    pictures: int = 9
    """Number of pictures of each run, from 3 to 100."""
    seeds: Literal["all", "best"] | None = None
    """Final runs of a method that have a page: all, or the one with the best tune mIoU. By default all, unless there are
    more than 60 in the run."""


def main() -> None:
    """The command; exit code 2 if nothing can be shown."""
    run_command("python -m orchestrator.gallery", GalleryOptions, draw)


def draw(options: GalleryOptions) -> int:
    """Write the gallery and the leaderboard of a run."""
    # Imported here: torch and pyarrow would make --help slow.
    from orchestrator.leaderboard.files import write_leaderboard
    from orchestrator.ledger.tables import open_run
    from orchestrator.worker.gallery_writer import write_gallery

    ledger = open_run(options.run)
    made, notes = write_gallery(ledger, options.pictures, options.seeds)
    write_leaderboard([ledger])
    for note in notes:
        print(note, file=sys.stderr)
    if made is None:
        print("error: nothing can be shown", file=sys.stderr)
        return USAGE
    print(made)
    return DONE


if __name__ == "__main__":
    main()
