from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.leaderboard.board import build_boards
from orchestrator.leaderboard.charts import Curve, Mark, curves, forest_axis, scatter, ticks
from orchestrator.leaderboard.label_placement import Dot, Label, place_labels
from orchestrator.leaderboard.published import method_key, published_for
from orchestrator.leaderboard.run_records import read_run_records
from orchestrator.leaderboard.text_tables import published_table
from tests.orchestrator.leaderboard.synthetic import Run, write_run

dots = st.builds(
    lambda name, x, y, half: Dot(name, x, y, y - half, y + half),
    st.text("abcdefgh", min_size=2, max_size=14),
    st.floats(13, 95),
    st.floats(16, 278),
    st.floats(0, 60),
)


def box(dot: Dot, label: Label, width: float) -> tuple[float, float, float, float]:
    """Where a browser draws the name, in pixels, for a font of 12 px."""
    start, length = dot.x / 100 * width + label.dx, 6.9 * len(dot.name)
    left = start if label.anchor == "start" else start - length
    return left, dot.y + label.dy - 6, left + length, dot.y + label.dy + 6


@given(st.lists(dots, min_size=1, max_size=12))
@settings(max_examples=60)
def test_no_name_covers_another_name_or_mark_or_leaves_the_drawing(found: list[Dot]) -> None:
    labels = place_labels(found, height=278)
    for width in (330, 520, 780):
        boxes = [box(d, label, width) for d, label in zip(found, labels, strict=True) if label is not None]
        assert all(left >= 0 and right <= width for left, _, right, _ in boxes)
        for one, other in itertools.combinations(boxes, 2):
            assert not (one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3])
        for place, (dot, label) in enumerate(zip(found, labels, strict=True)):
            if label is None:
                continue
            left, top, right, bottom = box(dot, label, width)
            others = [d for k, d in enumerate(found) if k != place]
            assert not any(left < d.x / 100 * width < right and top < d.y < bottom for d in others)


def test_the_first_dots_keep_their_names_and_a_dot_on_another_goes_without() -> None:
    crowd = [Dot("crowd", 50, 100 + k) for k in range(12)]
    first, *rest = place_labels([Dot("best", 50, 100), *crowd], 278)
    assert first is not None
    assert None in rest
    assert place_labels([Dot("best", 50, 100), Dot("other", 60, 200)], 278) == [Label(10, 0, "start")] * 2


@given(st.floats(-100, 100), st.floats(0.01, 100))
def test_ticks_are_few_round_and_inside(low: float, size: float) -> None:
    found = ticks(low, low + size)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-6 <= tick <= low + size + 1e-6 for tick in found)


def test_a_forest_plot_has_zero_on_its_axis_even_where_every_gain_is_far_from_it() -> None:
    axis = forest_axis([Mark("a", "logits", 7.0, 6.0, 8.0)])
    assert "0" in [text for _, text in axis.ticks]
    assert 0 < axis.scale(0.0) < axis.scale(6.0) < axis.scale(8.0) < 100


def test_the_front_is_a_staircase_of_what_intervals_tell_apart() -> None:
    marks = [Mark(name, "logits", value, value - half, value + half, cost) for name, value, half, cost in
             (("cheap", 1.0, 0.3, 1.0), ("alike", 1.5, 0.3, 2.0), ("good", 3.0, 0.3, 3.0), ("dear", 2.0, 0.3, 4.0))]  # fmt: skip
    drawing = scatter(marks, "title", "cost", "mIoU")
    assert drawing.count('class="front"') == 3  # along from cheap, up to good, along to the end
    wide = [replace(mark, low=mark.value - 3, high=mark.value + 3) for mark in marks]
    unknown = [replace(mark, low=None, high=None) for mark in marks]
    for told_apart_by_none in (wide, unknown):
        assert 'class="front"' not in scatter(told_apart_by_none, "title", "cost", "mIoU")


def test_names_in_a_scatter_are_text() -> None:
    with_nasty = scatter([Mark("<b>", "x", 1.0, None, None, 2.0)], "<t>", "cost & more", "mIoU")
    assert "<b>" not in with_nasty
    assert "cost &amp; more" in with_nasty


def test_names_of_curves_that_end_together_are_moved_apart() -> None:
    lines = [Curve(f"m{k}", "logits", (50.0, 60.0 + k / 100)) for k in range(6)]
    found = re.findall(r'<text x="74.0%" y="(\d+)">m\d', curves(lines, "title", "n", "mIoU"))
    heights = sorted(int(y) for y in found)
    assert len(heights) == 6
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 14


@pytest.mark.parametrize(
    ("ours", "theirs"), [("af_dcd", "Af-DCD"), ("heteroakd", "HeteroAKD"), ("cwd", "CWD")]
)
def test_a_methods_name_is_known_in_other_spellings(ours: str, theirs: str) -> None:
    assert method_key(ours) == method_key(theirs)


def test_published_numbers_stand_beside_ours_of_the_same_method_and_pair(tmp_path: Path) -> None:
    pair = "deeplabv3-resnet101_to_deeplabv3-resnet18"
    run = Run(pairs=(pair,), dataset="cityscapes")
    (board,) = build_boards(read_run_records([write_run(tmp_path / "known", run)]))
    table = published_table(board)
    told = {
        row[1]: row for row in table.rows if row[6].startswith("winycg/CIRKD@2d8ad0f") and row[4] == "val"
    }
    assert told["CWD"][2] == "75.55"
    cwd = board.cells[pair, "cwd"].miou
    assert cwd is not None
    assert told["CWD"][3].startswith(f"{100 * cwd.mean:.1f} [")
    student = board.cells[pair, "student"].miou
    assert student is not None
    assert told["none (student alone)"][3].startswith(f"{100 * student.mean:.1f} [")
    assert told["SKD"][3] == "–"
    assert all(row[6] for row in table.rows)
    (other,) = build_boards(read_run_records([write_run(tmp_path / "other", run.but(dataset="scenes"))]))
    assert published_table(other).rows == ()
    assert published_for("cityscapes", "deeplabv3-resnet101", "deeplabv3-convnext_tiny") == ()
