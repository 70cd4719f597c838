"""The runs of a pair that a gallery shows, and the table that links them."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

from orchestrator.leaderboard.gallery_pictures import (
    ChosenPicture,
    PairGallery,
    runs_beside_student,
    scored_images,
)
from orchestrator.leaderboard.number_formats import NOTHING, points
from orchestrator.leaderboard.run_records import RunRecords, TrialRecord
from orchestrator.leaderboard.scores import final_score
from orchestrator.leaderboard.selected_students import by_tune, finished_finals

_NO_PAGE = "A run without a link has no page: it failed, its weights are missing, or the student alone has no run with its seed."
_BEST_SEEDS = "One run of each method has a page, the one with the best tune mIoU; the option --seeds all gives each run a page."


@dataclass(frozen=True)
class RunLink:
    """A final run in the table: its test mIoU in points, and the id that names its page, if it has one."""

    miou: str
    page: str | None


@dataclass(frozen=True)
class RunTable:
    """The final runs of a pair's methods, by method and seed, and why some of them have no page."""

    seeds: tuple[int, ...]
    rows: tuple[tuple[str, tuple[RunLink, ...]], ...]
    note: str


def run_galleries(selected: PairGallery, records: RunRecords, *, all_seeds: bool) -> tuple[PairGallery, ...]:
    """The gallery of each final run of the pair's methods, on the pictures of the pair's own gallery.

    Methods are in the order of the board. A run needs weights, and a run of the student alone with the same seed.

    Args:
        selected: the pair's gallery.
        records: the tables.
        all_seeds: all runs of a method; otherwise only the one with the best tune mIoU.
    """
    found = []
    for method in _methods(selected):
        runs = runs_beside_student(selected.board, records, selected.pair, method)
        if not all_seeds:
            runs = sorted(runs, key=lambda both: by_tune(both[0]))[-1:]
        for run, alone in runs:
            if run.trial_id == selected.method.trial_id:
                found.append(selected)
                continue
            scores = {
                chosen.picture: chosen
                for chosen in scored_images(records.counts[run.trial_id], records.counts[alone.trial_id])
            }
            pictures = tuple(
                _of_other_run(scores[chosen.picture], chosen, selected.run)
                for chosen in selected.pictures
                if chosen.picture in scores
            )
            if pictures:
                found.append(PairGallery(selected.board, selected.pair, run, alone, pictures))
    return tuple(found)


def run_table(selected: PairGallery, records: RunRecords, pages: Set[str], *, all_seeds: bool) -> RunTable:
    """The table of a pair's runs.

    Args:
        selected: the pair's gallery.
        records: the tables.
        pages: ids of the trials that have a page.
        all_seeds: whether all runs were to have one; otherwise only the best of each method on tune.
    """
    board, pair = selected.board, selected.pair
    rows = []
    for method in _methods(selected):
        finals = sorted(finished_finals(board, records, pair, method), key=lambda run: run.time_key)
        runs = {run.seed: run for run in finals}
        if runs:
            rows.append((method, runs))
    seeds = tuple(sorted({seed for _, runs in rows for seed in runs}))
    links = tuple(
        (method, tuple(_link(runs.get(seed), records, pages) for seed in seeds)) for method, runs in rows
    )
    gaps = any(link.page is None for _, mine in links for link in mine)
    note = (_NO_PAGE if all_seeds else _BEST_SEEDS) if gaps else ""
    return RunTable(seeds, links, note)


def _link(run: TrialRecord | None, records: RunRecords, pages: Set[str]) -> RunLink:
    if run is None:
        return RunLink(NOTHING, None)
    page = run.trial_id if run.trial_id in pages else None
    return RunLink(points(final_score(run, records.counts)), page)


def _methods(selected: PairGallery) -> list[str]:
    return [row.method for row in selected.board.rows if row.method != selected.board.baseline]


def _of_other_run(scores: ChosenPicture, chosen: ChosenPicture, run: str) -> ChosenPicture:
    return replace(scores, reason=chosen.reason, chosen_by=run)
