"""Writes the gallery of a run: test pictures, labels and predictions side by side."""

from __future__ import annotations

import shlex

from distill.errors import UsageError
from orchestrator.leaderboard.board import build_boards
from orchestrator.leaderboard.files import GALLERY
from orchestrator.leaderboard.gallery_page import gallery_html
from orchestrator.leaderboard.gallery_pictures import PairGallery, pair_galleries
from orchestrator.leaderboard.run_records import RunRecords, read_run_records
from orchestrator.leaderboard.texts import runs_title
from orchestrator.ledger.tables import Ledger
from orchestrator.worker.gallery_renderer import Predicted, draw_section, predict_gallery

# The page is meant to be sent around: drawings get smaller until it is not larger than this.
_PAGE_BYTES = 3_000_000
_LONGEST_SIDES = (512, 384, 256, 160, 96)


def write_gallery(ledger: Ledger) -> tuple[str | None, list[str]]:
    """Write `leaderboard/gallery.html`. A pair whose weights, data or pictures are missing is left out.

    Returns:
        Path of the page, or None if nothing can be shown (an older page is deleted then: it belongs to another board);
        and a sentence for everything that is left out.
    """
    records = read_run_records([ledger])
    galleries = [gallery for board in build_boards(records) for gallery in pair_galleries(board, records)]
    predicted, notes = _predict(ledger, galleries, records)
    path = f"leaderboard/{GALLERY}"
    if not predicted:
        ledger.delete(path)
        return None, notes or ["no gallery: no pair has final runs of a method and of the student alone"]
    place = ledger.place()
    run = place if "://" in place else ".."
    command = shlex.join(["python", "-m", "orchestrator.gallery", run])
    ledger.write_bytes(path, _page(predicted, notes, command, runs_title(records)))
    return ledger.place(path), notes


def _predict(
    ledger: Ledger, galleries: list[PairGallery], records: RunRecords
) -> tuple[list[Predicted], list[str]]:
    """The pairs that can be shown, and a sentence for each other one."""
    found, notes = [], []
    for gallery in galleries:
        record = records.provenance.get(gallery.method.provenance_id)
        try:
            found.append(predict_gallery(ledger, gallery, record.config_yaml if record else ""))
        except Exception as error:  # whatever is wrong with a picture must not end a finished sweep
            lines = str(error).strip().splitlines() or [""]
            kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
            notes.append(f"the gallery leaves out {gallery.pair.pair}: {kind}{lines[0]}")
    return found, notes


def _page(predicted: list[Predicted], notes: list[str], command: str, title: str) -> bytes:
    page = b""
    for longest in _LONGEST_SIDES:
        sections = [draw_section(found, longest) for found in predicted]
        page = gallery_html(sections, notes, command, title).encode()
        if len(page) <= _PAGE_BYTES:
            break
    return page
