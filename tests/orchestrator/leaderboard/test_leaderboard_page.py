"""The page in a real browser, as people open it: from disk, without a server."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.support.wait import WebDriverWait

from orchestrator.leaderboard.files import write_leaderboard
from orchestrator.leaderboard.unfinished import Unfinished
from orchestrator.ledger.tables import Ledger
from tests.orchestrator.leaderboard.browser import CHROMIUM, DRIVER, MISSING, Browser
from tests.orchestrator.leaderboard.synthetic import Run, write_run

pytestmark = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason=MISSING)

NASTY = '<script>alert(1)</script>,"'
RUN = Run(
    gains={"student": 0.0, "kd": 0.02, "cwd": 0.1, "mgd": 0.05, NASTY: 0.02},
    seeds=(1, 2, 3, 4, 5),
    trials=9,
    failed=frozenset({("kd", "big_to_small", 2)}),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("downloads"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_leaderboard([write_run(folder, RUN)])
    return folder / "leaderboard" / "leaderboard.html"


def methods(browser: Browser) -> list[str]:
    """Names in the main table as a reader sees them, top to bottom."""
    rows = "[...document.querySelectorAll('#b0-table tbody tr')].filter(r => r.offsetParent)"
    return list(browser.run(f"return {rows}.map(r => r.dataset.m)"))


def test_a_title_names_the_run_and_its_day(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("return document.title") == "run · 2026-03-01 · Distillation leaderboard"


def test_there_is_a_filter_only_where_there_is_something_to_filter(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    shown = "return document.querySelector('.filters').offsetParent !== null"
    browser.open(page)
    assert browser.run(shown) is False
    gains = {"student": 0.0, **{f"m{i}": i / 100 for i in range(6)}}
    write_leaderboard([write_run(tmp_path, Run(gains=gains, seeds=(1, 2)))])
    browser.open(tmp_path / "leaderboard" / "leaderboard.html")
    assert browser.run(shown) is True


def test_the_page_asks_for_nothing_but_itself_and_complains_of_nothing(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.requests() == [page.as_uri()]
    assert browser.errors() == []


@pytest.mark.parametrize(("width", "dark"), [(1280, True), (420, False)])
def test_accessibility_rules_hold_in_light_and_dark_wide_and_narrow(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.open(page, width=width, dark=dark)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.violations() == []
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is not dark


@pytest.mark.parametrize("width", [1280, 420])
def test_only_tables_scroll_sideways_and_the_main_one_need_not_on_a_wide_screen(
    browser: Browser, page: Path, width: int
) -> None:
    browser.open(page, width=width)
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    beyond = browser.run(
        "const t = document.getElementById('b0-table').parentNode; return t.scrollWidth - t.clientWidth"
    )
    assert width < 1280 or beyond <= 0


@pytest.mark.parametrize("width", [1280, 420])
def test_no_two_texts_of_a_drawing_cover_each_other(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    covered = browser.run("""
        const found = [];
        for (const svg of document.querySelectorAll('svg.chart')) {
          const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
          texts.forEach(([one, a], i) => texts.slice(i + 1).forEach(([other, b]) => {
            if (a.width && a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
              found.push(one + ' / ' + other);
          }));
        }
        return found;""")
    assert covered == []


@pytest.mark.parametrize("width", [1280, 420])
def test_a_table_that_is_wider_than_its_place_says_that_it_can_be_scrolled(
    browser: Browser, page: Path, width: int
) -> None:
    browser.open(page, width=width)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    told = browser.run("""
        return [...document.querySelectorAll('.scroll')].map(s => {
          const note = s.previousElementSibling;
          return [s.scrollWidth > s.clientWidth + 1, note.className == 'sideways' && note.offsetParent !== null];
        });""")
    assert all(wider == says for wider, says in told)
    assert told[0][0] is (width == 420)


def test_axes_have_titles_and_their_texts_are_at_least_12_pixels(browser: Browser, page: Path) -> None:
    browser.open(page, width=420)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    bare = "[...document.querySelectorAll('svg.chart')].filter(s => s.querySelectorAll('.axis-title').length != 2)"
    assert browser.run(f"return {bare}.length") == 0
    assert browser.run("return document.querySelector('.forest .axis-name').offsetParent !== null")
    sizes = browser.run("""
        return [...document.querySelectorAll('svg text, .axis span')].filter(t => t.getBoundingClientRect().width).map(t => {
          const svg = t.closest('svg'), box = svg && svg.viewBox.baseVal;
          const scale = box && box.width ? svg.getBoundingClientRect().width / box.width : 1;
          return scale * parseFloat(getComputedStyle(t).fontSize);
        });""")
    assert min(sizes) >= 12


def test_each_study_has_curves_with_a_thin_line_per_seed_and_filters_fade_them(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    lines = (
        "[...document.querySelectorAll('.training[data-p=\"0\"] figure:first-child g[data-m]')]"
        ".map(g => [g.dataset.m, g.querySelector('.seeds').getAttribute('d').split('M').length - 1])"
    )
    counts = dict(browser.run(f"return {lines}"))
    assert counts == {"student": 5, "kd": 5, "cwd": 5, "mgd": 5, NASTY: 5}
    assert browser.run("return document.querySelectorAll('.training figure').length") == 4
    browser.run("document.querySelector('.family input[value=logits]').click()")
    faded = "[...document.querySelectorAll('.training g[data-m]')].filter(g => g.style.opacity).map(g => g.dataset.m)"
    assert set(browser.run(f"return {faded}")) == {"kd", "cwd"}
    browser.run("document.querySelector('.pair input[value=B]').click()")
    assert browser.run("return document.querySelector('.training[data-p=\"1\"]').offsetParent") is None


def test_the_page_of_a_running_sweep_loads_itself_again_with_its_filters_and_what_was_unfolded(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    # In an hour, so that no pause of this machine lets the page seem abandoned.
    live = live_page(page, tmp_path, minutes_ago=-60)
    live.write_text(live.read_text().replace('data-refresh="60"', 'data-refresh="0.5"'))
    browser.open(live, state="b0.q=cwd")
    browser.run("document.querySelector('.parameters').open = true")
    loaded = "return performance.getEntriesByType('navigation')[0].type == 'reload' && document.readyState == 'complete'"
    WebDriverWait(browser.driver, 60).until(lambda _: browser.run(loaded))
    assert methods(browser) == ["cwd"]
    assert browser.run("return document.querySelector('.parameters').open") is True


@pytest.mark.parametrize(("minutes_ago", "is_stale"), [(-60, False), (2, False), (4, True)])
def test_a_page_that_nobody_writes_any_more_says_so_and_loads_itself_again_less_often(
    browser: Browser, page: Path, tmp_path: Path, minutes_ago: float, is_stale: bool
) -> None:
    browser.open(live_page(page, tmp_path, minutes_ago), timers=True)
    shown = "[...document.querySelectorAll('main .note, main .alive')].filter(n => n.offsetParent).map(n => n.textContent).join(' ')"
    said = browser.run(f"return {shown}")
    assert ("not written since " in said) is is_stale
    assert ("the same command goes on from here" in said) is is_stale
    assert browser.run("return document.querySelector('.alive').offsetParent !== null") is not is_stale
    assert browser.run("return timers") == [600_000 if is_stale else 60_000]


def live_page(page: Path, folder: Path, minutes_ago: float) -> Path:
    """The page of the run as a running sweep has written it so many minutes ago."""
    written = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=minutes_ago)
    unfinished = Unfinished(999, written)
    return Path(write_leaderboard([Ledger(page.parent.parent)], Ledger(folder), unfinished=unfinished).page)


def test_a_header_sorts_by_the_number_behind_its_cells_and_says_so(browser: Browser, page: Path) -> None:
    browser.open(page)
    best_first = methods(browser)
    assert best_first[0] == "cwd"
    press = (
        "[...document.querySelectorAll('#b0-table thead button')].find(b => b.textContent == 'mIoU').click()"
    )
    browser.run(press)
    assert methods(browser) == best_first
    browser.run(press)
    assert methods(browser) == best_first[::-1]
    sorted_by = browser.run("return document.querySelector('#b0-table [aria-sort]').ariaSort")
    assert sorted_by == "ascending"


def test_filters_hide_rows_everywhere_change_no_rank_and_survive_in_the_address(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    ranks = "return Object.fromEntries([...document.querySelectorAll('#b0-table tbody tr')].map(r => [r.dataset.m, r.cells[0].textContent]))"
    before = browser.run(ranks)
    browser.run("document.querySelector('.family input[value=logits]').click()")
    browser.run("document.querySelector('.pair input[value=B]').click()")
    browser.run("document.querySelectorAll('#b0-table thead button')[1].click()")
    shown = methods(browser)
    assert "cwd" not in shown
    assert "mgd" in shown
    assert browser.run(ranks) == before
    assert browser.run("return document.querySelector('output').textContent") == "3 of 5 methods shown"
    forest = browser.run(
        "return [...document.querySelectorAll('.forest tr[data-m=cwd]')].filter(r => r.offsetParent).length"
    )
    assert forest == 0
    assert browser.run("return document.querySelector('.forest[data-p=\"1\"]').offsetParent") is None
    state = browser.run("return location.hash.slice(1)")
    browser.open(page, state=state)
    assert methods(browser) == shown
    assert browser.run("return document.querySelector('.pair input[value=B]').checked") is False
    heads = browser.run(
        "return [...document.querySelectorAll('#b0-table th[scope=col]')].filter(h => h.offsetParent).map(h => h.textContent)"
    )
    assert "gain A" in heads
    assert "gain B" not in heads


@pytest.mark.parametrize("name", ["leaderboard.csv", "leaderboard.json"])
def test_a_download_is_the_written_file_to_the_byte_without_the_file(
    browser: Browser, page: Path, name: str, tmp_path: Path
) -> None:
    alone = tmp_path / "sent.html"
    alone.write_bytes(page.read_bytes())
    browser.open(alone)
    assert browser.download(name) == (page.parent / name).read_bytes()


def test_a_method_named_like_a_script_is_text(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert NASTY in methods(browser)
    assert browser.run("return document.scripts.length") == 2
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    trials = browser.run("return document.querySelector('.trials').textContent")
    assert NASTY in trials


def test_without_javascript_tables_and_plots_stand_and_dead_controls_do_not(
    browser: Browser, page: Path
) -> None:
    browser.open(page, scripts=False)
    try:
        assert methods(browser)[0] == "cwd"
        forest = "return document.querySelector('.forest').getBoundingClientRect().height"
        assert browser.run(forest) > 50
        assert browser.run("return document.querySelector('.filters').offsetParent") is None
        assert (
            browser.run("return document.querySelector('a[download]').getAttribute('href')")
            == "leaderboard.csv"
        )
    finally:
        browser.open(page)


def test_every_trial_and_every_hyper_parameter_can_be_unfolded(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.run("return document.querySelectorAll('.trials tbody tr').length") == 2 * 5 * (9 + 5)
    assert browser.run("return document.querySelectorAll('.strips figure').length") == 5
    assert browser.run("return document.querySelectorAll('.strips .won').length") == 2 * 5
