"""python -m orchestrator.gallery RUN: test pictures, labels and predictions side by side, beside the board."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from distill.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.leaderboard.gallery_pictures import PairGallery
    from orchestrator.leaderboard.run_records import RunRecords
    from orchestrator.ledger.tables import Ledger
    from orchestrator.worker.gallery_renderer import Predicted

# The page is to be sent around; drawings get smaller until it is no larger.
_PAGE_BYTES = 3_000_000
_LONGEST_SIDES = (512, 384, 256, 160, 96)


@dataclass(frozen=True)
class Options:
    """Make the gallery of a run again, and its leaderboard, which links it.

    For each pair three test pictures with label, teacher, student alone and best method, in leaderboard/gallery.html.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run: a path, or a URI such as s3://bucket/run. Its data must lie where it did."""


def main() -> None:
    """The command; exit code 0, or 2 where there is nothing that could be shown."""
    options = tyro.cli(Options, prog="python -m orchestrator.gallery")
    # Imported here: torch and pyarrow would make --help slow.
    from orchestrator.leaderboard.files import write_leaderboard
    from orchestrator.ledger.tables import Ledger

    ledger = Ledger(options.run)
    try:
        if not ledger.exists("tables"):
            raise UsageError(f"{ledger.place()} holds no tables; give the folder of a run (its --output)")
        made, notes = write_gallery(ledger)
        write_leaderboard([ledger])
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for note in notes:
        print(note, file=sys.stderr)
    if made is None:
        print("error: nothing can be shown", file=sys.stderr)
        sys.exit(2)
    print(made)


def write_gallery(ledger: Ledger) -> tuple[str | None, list[str]]:
    """Writes `leaderboard/gallery.html`; a pair whose weights, data or pictures are missing is left out.

    Returns where it lies, or None where nothing can be shown (then an older one is taken away: it showed another
    board), and a sentence for whatever is left out.
    """
    from orchestrator.leaderboard.board import build_boards
    from orchestrator.leaderboard.files import GALLERY
    from orchestrator.leaderboard.gallery_pictures import pair_galleries
    from orchestrator.leaderboard.run_records import read_run_records

    records = read_run_records([ledger])
    galleries = [gallery for board in build_boards(records) for gallery in pair_galleries(board, records)]
    predicted, notes = _predicted(ledger, galleries, records)
    path = f"leaderboard/{GALLERY}"
    if not predicted:
        ledger.delete(path)
        return None, notes or ["no gallery: no pair has final runs of a method and of the student alone"]
    place = ledger.place()
    run = place if "://" in place else place.rsplit("/", 1)[-1]
    command = shlex.join(["python", "-m", "orchestrator.gallery", run])
    page = _page(predicted, notes, command)
    ledger.write_bytes(path, page)
    return ledger.place(path), notes


def _predicted(
    ledger: Ledger, galleries: list[PairGallery], records: RunRecords
) -> tuple[list[Predicted], list[str]]:
    """What can be shown, and a sentence for whatever cannot."""
    if not galleries:
        return [], []
    from orchestrator.worker.gallery_renderer import (
        predict_gallery,  # torch, for which a run without pictures need not wait
    )

    found, notes = [], []
    for gallery in galleries:
        record = records.provenance.get(gallery.method.provenance_id)
        try:
            found.append(predict_gallery(ledger, gallery, record.config_yaml if record else ""))
        except Exception as error:  # the board stands: whatever a picture lacks must not end a finished sweep
            lines = str(error).strip().splitlines() or [""]
            kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
            notes.append(f"the gallery leaves out {gallery.pair.pair}: {kind}{lines[0]}")
    return found, notes


def _page(predicted: list[Predicted], notes: list[str], command: str) -> bytes:
    from orchestrator.leaderboard.gallery_page import gallery_html
    from orchestrator.worker.gallery_renderer import draw_section

    page = b""
    for longest in _LONGEST_SIDES:
        sections = [draw_section(found, longest) for found in predicted]
        page = gallery_html(sections, notes, command).encode()
        if len(page) <= _PAGE_BYTES:
            break
    return page


if __name__ == "__main__":
    main()
