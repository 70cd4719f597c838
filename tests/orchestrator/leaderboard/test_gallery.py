"""The gallery: which pictures it shows, and the page in a real browser."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import sparse
from selenium.webdriver.support.wait import WebDriverWait

from orchestrator.leaderboard.board import build_boards
from orchestrator.leaderboard.files import write_leaderboard
from orchestrator.leaderboard.gallery_page import (
    Drawing,
    PairSection,
    Panel,
    gallery_html,
    page_of,
    run_html,
)
from orchestrator.leaderboard.gallery_pictures import (
    PairGallery,
    choose_pictures,
    pair_galleries,
    scored_images,
)
from orchestrator.leaderboard.gallery_runs import run_galleries, run_table
from orchestrator.leaderboard.run_records import ImageCounts, RunRecords, read_run_records
from tests.orchestrator.leaderboard.browser import CHROMIUM, DRIVER, MISSING, Browser
from tests.orchestrator.leaderboard.synthetic import Run, write_run

NASTY = "<script>alert(1)</script>&\"'a_very_long_name_that_nobody_breaks_for_us_at_all_0123456789"


def counts(*pictures: tuple[int, int], first: int = 0) -> ImageCounts:
    """Pictures of 20 pixels and two classes, of which so many are right; both halves in class 0 and 1."""
    rows = [[a, b, 10 - b, 10 - a, 10 - a, 10 - b] for a, b in pictures]
    return ImageCounts(np.arange(first, first + len(rows)), 2, sparse.csr_array(np.array(rows, np.float64)))


def test_best_median_and_worst_gain_are_shown_by_each_pictures_own_miou() -> None:
    alone = counts((5, 5), (5, 5), (5, 5), (5, 5), (5, 5))
    method = counts((6, 6), (10, 10), (5, 5), (2, 2), (7, 7))
    best, median, worst = choose_pictures(method, alone)
    assert [(c.reason, c.picture) for c in (best, median, worst)] == [
        ("best gain", 1), ("median gain", 0), ("worst gain", 3),
    ]  # fmt: skip
    assert (best.method_miou, best.alone_miou) == (1.0, pytest.approx(5 / 15))
    assert worst.gain == pytest.approx(2 / 18 - 5 / 15)


def test_of_equal_gains_the_first_is_shown_and_of_few_pictures_each_once() -> None:
    same = counts((5, 5), (5, 5), (5, 5), (5, 5))
    assert [c.picture for c in choose_pictures(same, same)] == [0, 1]
    assert [c.reason for c in choose_pictures(counts((6, 6)), counts((5, 5)))] == ["best gain"]


def test_further_pictures_are_at_even_distances_in_the_order_of_gain() -> None:
    alone, method = counts(*[(5, 5)] * 9), counts(*[(a, a) for a in (9, 1, 8, 2, 7, 3, 6, 4, 5)])
    assert [(c.reason, c.picture) for c in choose_pictures(method, alone, 5)] == [
        ("best gain", 0), ("median gain", 8), ("worst gain", 1), ("gain 3 of 9", 4), ("gain 7 of 9", 5),
    ]  # fmt: skip
    everything = choose_pictures(method, alone, 50)
    assert sorted(c.picture for c in everything) == list(range(9))
    assert choose_pictures(method, alone, 4)[:3] == choose_pictures(method, alone)


def test_a_picture_that_one_run_was_not_scored_on_or_that_has_no_class_is_left_out() -> None:
    nothing = ImageCounts(np.arange(2), 2, sparse.csr_array(np.array([[0.0] * 6, [5, 5, 5, 5, 5, 5]])))
    assert [c.picture for c in choose_pictures(nothing, nothing)] == [1]
    assert [c.picture for c in choose_pictures(counts((6, 6), (7, 7)), counts((5, 5), first=1))] == [1]
    assert choose_pictures(counts((6, 6)), counts((5, 5), first=1)) == ()


def run_with_weights(folder: Path, tune: dict[tuple[str, int], float], run: Run) -> RunRecords:
    """A synthetic run whose final trials have weights and a tune mIoU by method and seed."""
    ledger = write_run(folder, run)
    again = [
        {
            **row,
            "attempt": 2,
            "params": {},
            "tune_miou": tune.get((row["method"], row["seed"]), 0.1),
            "checkpoint": f"models/{row['trial_id']}.safetensors",
        }
        for row in ledger.read("trials").to_pylist()
        if row["phase"] == "final" and row["status"] == "ok"
    ]
    ledger.append("trials", again, "again")
    return read_run_records([ledger])


def galleries(records: RunRecords) -> list[PairGallery]:
    return [gallery for board in build_boards(records) for gallery in pair_galleries(board, records)]


def test_the_best_method_beside_the_student_alone_is_shown_by_its_best_tune_seed_that_both_have(
    tmp_path: Path,
) -> None:
    """Though the student alone is best, and though seed 2, best on tune, failed for the student alone."""
    run = Run(
        gains={"student": 0.2, "kd": 0.0, "cwd": 0.1},
        pairs=("big_to_small",),
        failed=frozenset({("student", "big_to_small", 2)}),
    )
    tune = {("cwd", 1): 0.3, ("cwd", 2): 0.9, ("cwd", 3): 0.5, ("kd", 1): 1.0}
    (gallery,) = galleries(run_with_weights(tmp_path, tune, run))
    assert (gallery.method.method, gallery.method.seed) == ("cwd", 3)
    assert (gallery.alone.method, gallery.alone.seed) == ("student", 3)


def test_every_run_with_weights_and_a_student_alone_of_its_seed_is_shown_on_the_pictures_of_the_pair(
    tmp_path: Path,
) -> None:
    run = Run(
        gains={"student": 0.0, "kd": 0.02, "cwd": 0.1},
        pairs=("big_to_small",),
        failed=frozenset({("student", "big_to_small", 2), ("kd", "big_to_small", 3)}),
    )
    records = run_with_weights(tmp_path, {("cwd", 3): 0.9, ("kd", 1): 0.2}, run)
    (selected,) = galleries(records)
    runs = run_galleries(selected, records, all_seeds=True)
    assert [one.run for one in runs] == ["cwd, seed 1", "cwd, seed 3", "kd, seed 1"]
    assert runs[1] is selected
    for one in runs:
        assert one.alone.seed == one.method.seed
        assert [c.picture for c in one.pictures] == [c.picture for c in selected.pictures]
    other = runs[2].pictures[0]
    scores = {
        c.picture: c
        for c in scored_images(*(records.counts[t.trial_id] for t in (runs[2].method, runs[2].alone)))
    }
    assert (other.gain, other.chosen_by) == (scores[other.picture].gain, "cwd, seed 3")
    best = run_galleries(selected, records, all_seeds=False)
    assert [one.run for one in best] == ["cwd, seed 3", "kd, seed 1"]
    table = run_table(selected, records, {one.method.trial_id for one in runs}, all_seeds=True)
    assert table.seeds == (1, 2, 3)
    pages = {method: [link.page is not None for link in links] for method, links in table.rows}
    assert pages == {"cwd": [True, False, True], "kd": [True, False, False]}
    assert table.rows[1][1][2].miou == "–"
    assert "failed" in table.note
    assert "--seeds all" in run_table(selected, records, set(), all_seeds=False).note


def test_without_weights_or_without_a_method_there_is_nothing_to_show(tmp_path: Path) -> None:
    assert galleries(read_run_records([write_run(tmp_path / "bare", Run())])) == []
    assert galleries(run_with_weights(tmp_path / "alone", {}, Run(gains={"student": 0.0}))) == []


def drawing(caption: str, side: int = 40) -> Drawing:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(
        buffer, "PNG"
    )
    return Drawing(caption, "png", buffer.getvalue())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs, one of them with names that are markup if a page does not escape them, and the pages of all runs."""
    folder = tmp_path_factory.mktemp("gallery")
    records = run_with_weights(folder, {}, Run())
    (folder / "gallery").mkdir()
    sections = []
    for selected in galleries(records):
        runs = run_galleries(selected, records, all_seeds=True)
        table = run_table(selected, records, {run.method.trial_id for run in runs}, all_seeds=True)
        if not sections:
            pair = replace(selected.pair, pair=NASTY, teacher=NASTY, student=NASTY)
            selected = replace(selected, pair=pair, method=replace(selected.method, method=NASTY))
        sections.append((section_of(selected), table))
        for run in runs:
            path = folder / page_of(run.method.trial_id)
            path.write_text(run_html(section_of(run), table, "python -m", "title"))
    path = folder / "gallery.html"
    path.write_text(gallery_html(sections, [f"the gallery leaves out {NASTY}"], f"python -m {NASTY}", NASTY))
    return path


def section_of(gallery: PairGallery) -> PairSection:
    drawings = tuple(drawing(NASTY) for _ in range(6))
    panels = tuple(
        Panel(chosen, NASTY, drawings, small=False, teacher_miou=0.9) for chosen in gallery.pictures
    )
    return PairSection(gallery, panels, tuple((f"{NASTY} {k}", (k, 0, 9 * k)) for k in range(9)))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("downloads"))
    yield browser
    browser.close()


@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason=MISSING)
@pytest.mark.parametrize(("width", "dark"), [(390, True), (390, False), (1280, True), (1280, False)])
def test_the_page_reads_on_a_phone_and_on_a_desk_in_light_and_dark(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.errors() == []
    assert [url for url in browser.requests() if not url.startswith("data:")] == [page.as_uri()]
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.run("return [...document.images].every(i => i.complete && i.naturalWidth == 40)")
    columns = "getComputedStyle(document.querySelector('.pictures')).gridTemplateColumns.split(' ')"
    assert browser.run(f"return {columns}.filter(w => w != '0px').length") == (2 if width == 390 else 3)
    if (width == 390) is dark:
        assert browser.violations() == []
    assert "teacher 90.0" in browser.run("return document.querySelector('.panel h3').textContent")
    covered = "const m = document.querySelector('.map'); return [getComputedStyle(m.firstChild).backgroundImage.slice(0, 8), getComputedStyle(m.querySelector('img')).opacity]"
    assert browser.run(covered) == ["none", "1"]
    browser.run("document.querySelector('.overlay input').click()")
    assert browser.run(covered) == ['url("dat', "0.55"]
    assert browser.errors() == []
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is not dark


@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason=MISSING)
@pytest.mark.parametrize("width", [420, 1280])
def test_any_method_and_seed_can_be_chosen_and_its_page_is_loaded_only_then(
    browser: Browser, page: Path, width: int
) -> None:
    browser.open(page, width=width)
    browser.run("document.querySelectorAll('.runs').forEach(d => d.open = true)")
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    links = browser.run(
        "return [...document.querySelectorAll('.runs')].map(d => d.querySelectorAll('a').length)"
    )
    assert links == [2 * 3, 2 * 3]
    before = browser.requests()
    assert [url for url in before if not url.startswith("data:")] == [page.as_uri()]
    browser.run("[...document.querySelectorAll('.runs a')].find(a => a.title == 'kd').click()")
    there = "return document.querySelector('h1').textContent"
    WebDriverWait(browser.driver, 60).until(lambda _: browser.run(there) == "Gallery: kd, seed 1")
    assert browser.run("return document.querySelector('.runs [aria-current]').title") == "kd"
    assert "chosen as best gain of cwd, seed" in browser.run(
        "return document.querySelector('.panel').textContent"
    )
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.violations() == []
    browser.run("[...document.querySelectorAll('.runs a')].filter(a => a.title == 'cwd')[1].click()")
    WebDriverWait(browser.driver, 60).until(lambda _: browser.run(there) == "Gallery: cwd, seed 2")
    browser.run("document.querySelector('.links a').click()")
    WebDriverWait(browser.driver, 60).until(lambda _: browser.run(there) == "Gallery")
    assert browser.errors() == []


def test_names_are_text_on_the_page(page: Path) -> None:
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_the_board_links_the_gallery_that_lies_beside_it_and_no_other(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, Run())
    write_leaderboard([ledger])
    assert b"gallery.html" not in ledger.read_bytes("leaderboard/leaderboard.html")
    ledger.write_bytes("leaderboard/gallery.html", b"here")
    write_leaderboard([ledger])
    assert b'<a href="gallery.html">' in ledger.read_bytes("leaderboard/leaderboard.html")
