"""Writes the gallery of a run: test pictures, labels and predictions side by side."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Literal, get_args

from distill.errors import UsageError
from orchestrator.leaderboard.board import build_boards
from orchestrator.leaderboard.files import GALLERY
from orchestrator.leaderboard.gallery_page import RUN_PAGES, PairSection, gallery_html, page_of, run_html
from orchestrator.leaderboard.gallery_pictures import FIRST, PairGallery, pair_galleries
from orchestrator.leaderboard.gallery_runs import RunTable, run_galleries, run_table
from orchestrator.leaderboard.run_records import RunRecords, read_run_records
from orchestrator.leaderboard.texts import runs_title
from orchestrator.ledger.tables import Ledger
from orchestrator.worker.gallery_renderer import PairPredictor, Predicted, draw_section

Seeds = Literal["all", "best"]

_BOARD = "leaderboard"
_NOTHING = "no gallery: no pair has final runs of a method and of the student alone"
# The pages are meant to be sent around: drawings get smaller until a page is not larger than this.
_PAGE_BYTES, _RUN_PAGE_BYTES = 3_000_000, 1_500_000
_LONGEST_SIDES = (512, 384, 256, 160, 96)
PICTURES, _MOST_PICTURES = 9, 100
# With more final runs than this, a sweep draws one run of each method: a large sweep is not to wait for its gallery.
_RUNS = 60


def write_gallery(
    ledger: Ledger, pictures: int = PICTURES, seeds: Seeds | None = None
) -> tuple[str | None, list[str]]:
    """Write `leaderboard/gallery.html`, and a page of each final run of a method into the folder beside it.

    A pair or run whose weights, data or pictures are missing is left out.

    Args:
        ledger: the run.
        pictures: number of pictures of a run's page.
        seeds: the final runs of a method that have a page: all, or the one with the best tune mIoU. By default all,
            unless there are more than 60.

    Returns:
        Path of the first page, or None if nothing can be shown (an older gallery is deleted then: it belongs to another
        board); and a sentence for everything that is left out.

    Raises:
        UsageError: an argument is out of range.
    """
    if not FIRST <= pictures <= _MOST_PICTURES:
        raise UsageError(f"pictures is {pictures}, must be from {FIRST} to {_MOST_PICTURES}")
    if seeds is not None and seeds not in get_args(Seeds):
        raise UsageError(f"seeds is {seeds!r}, must be one of {', '.join(get_args(Seeds))}")
    records = read_run_records([ledger])
    galleries = [g for board in build_boards(records) for g in pair_galleries(board, records, pictures)]
    runs = [run_galleries(gallery, records, all_seeds=seeds != "best") for gallery in galleries]
    all_seeds = seeds == "all" or (seeds is None and sum(map(len, runs)) <= _RUNS)
    if not all_seeds:
        runs = [run_galleries(gallery, records, all_seeds=False) for gallery in galleries]
    writer = _GalleryWriter(ledger, records, _command(ledger, pictures, seeds), all_seeds=all_seeds)
    for gallery, mine in zip(galleries, runs, strict=True):
        writer.add(gallery, mine)
    return writer.finish(), writer.notes or [_NOTHING] * (not writer.pairs)


class _GalleryWriter:
    """Writes the pages of the runs pair by pair, then the first page.

    Attributes:
        pairs: what the first page shows.
        notes: a sentence for everything that is left out.
    """

    def __init__(self, ledger: Ledger, records: RunRecords, command: str, *, all_seeds: bool) -> None:
        self._ledger = ledger
        self._records = records
        self._command = command
        self._all_seeds = all_seeds
        self._title = runs_title(records)
        self._written: set[str] = set()
        self.pairs: list[tuple[Predicted, RunTable]] = []
        self.notes: list[str] = []

    def add(self, gallery: PairGallery, runs: Sequence[PairGallery]) -> None:
        """Write the pages of a pair's runs; the pair is left out if the run of its first page cannot be shown."""
        name, failures, sections = gallery.pair.short, list[str](), list[PairSection]()
        record = self._records.provenance.get(gallery.method.provenance_id)
        try:
            predictor = PairPredictor(self._ledger, gallery, record.config_yaml if record else "")
            selected = predictor.predict(gallery)
        except Exception as error:  # whatever is wrong with a picture must not end a finished sweep
            self.notes.append(f"the gallery leaves out {name}: {_reason(error)}")
            return
        for run in runs:
            try:
                predicted = selected if run is gallery else predictor.predict(run)
            except Exception as error:
                failures.append(f"{run.run}: {_reason(error)}")
            else:
                sections += _drawn([predicted], len(run.pictures), _RUN_PAGE_BYTES)
        if failures:
            self.notes.append(
                f"the gallery leaves out {len(failures)} of {len(runs)} runs of {name}, first {failures[0]}"
            )
        pages = {section.gallery.method.trial_id for section in sections}
        table = run_table(gallery, self._records, pages, all_seeds=self._all_seeds)
        for section in sections:
            page = run_html(section, table, self._command, self._title)
            self._write(page_of(section.gallery.method.trial_id), page)
        self.pairs.append((selected, table))

    def finish(self) -> str | None:
        """Write the first page and delete what an earlier gallery had; None if no pair can be shown."""
        if self.pairs:
            sections = _drawn([predicted for predicted, _ in self.pairs], FIRST, _PAGE_BYTES)
            shown = list(zip(sections, (table for _, table in self.pairs), strict=True))
            self._write(GALLERY, gallery_html(shown, self.notes, self._command, self._title))
        for path in (*self._ledger.list(f"{_BOARD}/{RUN_PAGES}"), f"{_BOARD}/{GALLERY}"):
            if path not in self._written:
                self._ledger.delete(path)
        return self._ledger.place(f"{_BOARD}/{GALLERY}") if self.pairs else None

    def _write(self, path: str, page: str) -> None:
        self._ledger.write_bytes(f"{_BOARD}/{path}", page.encode())
        self._written.add(f"{_BOARD}/{path}")


def _reason(error: Exception) -> str:
    """The first line of an error, with its type where it is not one for people."""
    lines = str(error).strip().splitlines() or [""]
    return f"{'' if isinstance(error, UsageError) else f'{type(error).__name__}: '}{lines[0]}"


def _command(ledger: Ledger, pictures: int, seeds: Seeds | None) -> str:
    """The command that makes the gallery, typed in the folder of its first page."""
    place = ledger.place()
    options = [
        *(["--pictures", str(pictures)] if pictures != PICTURES else []),
        *(["--seeds", seeds] if seeds else []),
    ]
    return shlex.join(["python", "-m", "orchestrator.gallery", place if "://" in place else "..", *options])


def _drawn(predicted: Sequence[Predicted], number: int, limit: int) -> list[PairSection]:
    """The first drawings of each gallery, as large as the limit of the page allows."""
    sections: list[PairSection] = []
    for longest in _LONGEST_SIDES:
        sections = [draw_section(found, longest, number) for found in predicted]
        if sum(section.bytes for section in sections) <= limit:
            break
    return sections
