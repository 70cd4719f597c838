"""What a board claims, under which condition, and what it could have detected."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from distill.export.__main__ import ExportOptions, export
from distill.models import CheckpointMetadata, build_model, save_model
from orchestrator.leaderboard.board import build_boards
from orchestrator.leaderboard.comparison import BETTER, WORSE
from orchestrator.leaderboard.comparison_tables import best_of, best_of_note, differences_table
from orchestrator.leaderboard.entries import Board
from orchestrator.leaderboard.files import write_leaderboard
from orchestrator.leaderboard.run_records import read_run_records
from orchestrator.leaderboard.statistics import holm, power
from orchestrator.leaderboard.text_tables import cells_table, class_table, costs_table, parameters_table
from orchestrator.leaderboard.texts import EQUAL_PROBABILITIES, evidence_note, resolution, verdict
from orchestrator.ledger.tables import Ledger
from tests.orchestrator.leaderboard.synthetic import Run, write_run
from tests.orchestrator.leaderboard.test_leaderboard_boards import FIVE, board_of, row_of, scores_of

REPEATED = Run(gains={"student": 0.0, "kd": 0.01, "cwd": 0.08}, searches=3, luck=0.03)


def test_with_repeated_searches_the_interval_is_over_the_mean_gains_of_the_searches(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, REPEATED)
    (board,) = build_boards(read_run_records([ledger]))
    table = scores_of(ledger).pivot_table(index="seed", columns=["method", "pair"], values="miou")
    for method in ("kd", "cwd"):
        gains = (table[method] - table["student"]).groupby(table.index // 10).mean()
        expected = scipy.stats.ttest_1samp(gains.mean(axis=1), 0).confidence_interval(0.95)
        row = row_of(board, method)
        assert row.gain == pytest.approx(gains.to_numpy().mean())
        assert (row.gain_low, row.gain_high) == pytest.approx((expected.low, expected.high))
        for pair in REPEATED.pairs:
            interval = scipy.stats.ttest_1samp(gains[pair], 0).confidence_interval(0.95)
            cell = board.cells[pair, method]
            assert cell.gain is not None
            assert (cell.gain.low, cell.gain.high) == pytest.approx((interval.low, interval.high))
    assert (board.searches, row_of(board, "kd").searches, row_of(board, "kd").seeds) == (3, 3, 9)


def test_a_table_without_the_column_of_searches_is_one_search(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "new", FIVE)
    old = Ledger(tmp_path / "old")
    for name in ("trials", "counts", "models", "provenance"):
        rows = plain.read(name)
        dropped = ["repeat"] if name == "trials" else []
        old.append(name, rows.drop_columns(dropped), name)
    (board,) = build_boards(read_run_records([old]))
    assert board.searches == 1
    assert board.rows == board_of(tmp_path, FIVE).rows


def test_the_page_the_markdown_and_the_cards_say_what_claims_are_conditional_on(tmp_path: Path) -> None:
    for run, said in (
        (FIVE, "conditional on one search per method and pair, and on one teacher per pair"),
        (FIVE.but(trials=0), "Nothing was searched: every claim is about these settings"),
        (REPEATED, "Each study was searched 3 times"),
    ):
        folder = tmp_path / str(run.trials) / str(run.searches)
        write_leaderboard([write_run(folder, run)])
        pages = [folder / "leaderboard" / name for name in ("leaderboard.html", "LEADERBOARD.md")]
        cards = list((folder / "leaderboard" / "cards").iterdir())
        assert len(cards) == 2
        assert all(said in page.read_text() for page in (*pages, *cards))


def test_a_method_that_is_surely_worse_is_said_to_be(tmp_path: Path) -> None:
    board = board_of(tmp_path, FIVE.but(gains={"student": 0.0, "kd": 0.0, "cwd": 0.1, "mgd": -0.1}))
    assert [row_of(board, m).surely for m in ("cwd", "mgd", "kd")] == [BETTER, WORSE, None]
    assert verdict(board).endswith(
        "Compared with the student alone, cwd is surely better; mgd is surely worse."
    )
    marks = {row[0]: row[1][:1] for row in costs_table(board).rows}
    assert (marks["cwd"], marks["mgd"]) == ("▲", "▼")


def test_all_p_of_a_board_are_one_family_with_half_of_the_errors_for_the_student(tmp_path: Path) -> None:
    run = FIVE.but(gains={**FIVE.gains, "at": 0.005})
    ledger = write_run(tmp_path, run)
    (board,) = build_boards(read_run_records([ledger]))
    table = scores_of(ledger).pivot_table(index="seed", columns=["method", "pair"], values="miou")
    means = {method: table[method].mean(axis=1) for method in run.gains}
    couples = list(itertools.combinations(run.gains, 2))
    raw = np.array([scipy.stats.ttest_rel(means[one], means[other]).pvalue for one, other in couples])
    weights = np.array([0.5 / 4 if "student" in couple else 0.5 / 6 for couple in couples])
    for couple, p in zip(couples, holm(raw, weights), strict=True):
        assert board.comparison.differences[couple].probability == pytest.approx(p)


def test_the_claims_on_pairs_share_the_errors_of_one_board(tmp_path: Path) -> None:
    run = FIVE.but(gains={"student": 0.0, "kd": 0.01, "cwd": 0.012, "at": 0.005})
    ledger = write_run(tmp_path, run)
    (board,) = build_boards(read_run_records([ledger]))
    table = scores_of(ledger).pivot_table(index="seed", columns=["method", "pair"], values="miou")
    couples = list(itertools.combinations(run.gains, 2))
    assert len(run.pairs) == 2
    for pair in run.pairs:
        raw = np.array([scipy.stats.ttest_rel(table[a, pair], table[b, pair]).pvalue for a, b in couples])
        for (one, other), p in zip(
            couples, holm(raw), strict=True
        ):  # three with the student, three others: equal weights
            if one == "student":
                assert board.cells[pair, other].p == pytest.approx(min(2 * p, 1))
    note = "adjusted over all comparisons on the pair, and multiplied by the number of pairs."
    assert note in cells_table(board).note


def test_every_two_methods_have_their_paired_difference_and_interval_on_the_page(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, FIVE)
    (board,) = build_boards(read_run_records([ledger]))
    table = scores_of(ledger).pivot_table(index="seed", columns=["method", "pair"], values="miou")
    difference = 100 * (table["mgd"] - table["kd"]).mean(axis=1)
    interval = scipy.stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    shown = differences_table(board)
    assert [row[0] for row in shown.rows] == ["1 cwd", "2 mgd", "3 kd", "4 student"]
    cell = shown.rows[1][3]
    assert cell.removeprefix("▲ ") == f"{difference.mean():+.1f} ±{(interval.high - interval.low) / 2:.1f}"
    assert cell.startswith("▲") == (board.comparison.differences["mgd", "kd"].sure == BETTER)
    assert "over seeds" in shown.note


def test_equal_adjusted_p_are_explained_where_they_are(tmp_path: Path) -> None:
    equal = board_of(
        tmp_path, FIVE.but(gains=dict.fromkeys(["student", "kd", "cwd", "at", "mgd", "ofa"], 0.0)), "equal"
    )
    found = [row.p_differs_from_student for row in equal.rows if row.p_differs_from_student is not None]
    assert len(set(found)) < len(found)
    assert EQUAL_PROBABILITIES in evidence_note(equal)
    one = board_of(tmp_path, FIVE.but(gains={"student": 0.0, "kd": 0.05}), "one")
    assert EQUAL_PROBABILITIES not in evidence_note(one)
    assert EQUAL_PROBABILITIES not in differences_table(one).note


def test_the_page_says_what_its_seeds_detect_and_how_many_detect_half_of_it(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, FIVE)
    (board,) = build_boards(read_run_records([ledger]))
    table = scores_of(ledger).pivot_table(index="seed", columns=["method", "pair"], values="miou")
    variances = [(table[m] - table["student"]).mean(axis=1).var(ddof=1) for m in ("kd", "cwd", "mgd")]
    found = board.comparison.resolution
    assert found is not None
    assert found.deviation == pytest.approx(np.sqrt(np.mean(variances)))
    assert power(found.gain, found.deviation, 5) == pytest.approx(0.8)
    enough = power(found.gain / 2, found.deviation, found.for_half)
    too_few = power(found.gain / 2, found.deviation, found.for_half - 1)
    assert too_few < 0.8 <= enough
    assert f"with 5 seeds, a true gain of {100 * found.gain:.1f} points" in resolution(board)
    assert resolution(board_of(tmp_path, FIVE.but(seeds=(1,)), "one")) == ""


def test_the_closed_share_of_the_gap_has_an_interval_only_if_the_gap_is_sure(tmp_path: Path) -> None:
    clear = row_of(board_of(tmp_path, FIVE, "clear"), "cwd")
    assert clear.teacher_gap_closed_low is not None
    assert clear.teacher_gap_closed_low < clear.teacher_gap_closed < clear.teacher_gap_closed_high  # type: ignore[operator]
    student = row_of(board_of(tmp_path, FIVE, "again"), "student").miou
    assert student is not None
    close = row_of(board_of(tmp_path, FIVE.but(teacher_miou=student + 0.002), "close"), "cwd")
    assert close.teacher_gap_closed is not None
    assert (close.teacher_gap_closed_low, close.teacher_gap_closed_high) == (None, None)


def unpruned(tmp_path: Path, methods: set[str]) -> Board:
    """The board of a run none of whose trials of `methods` was pruned."""
    records = read_run_records([write_run(tmp_path, FIVE)])
    trials = [
        replace(t, status="ok") if t.status == "pruned" and t.method in methods else t for t in records.trials
    ]
    return build_boards(replace(records, trials=tuple(trials)))[0]


def test_the_expected_best_of_n_is_given_only_where_no_trial_was_pruned(tmp_path: Path) -> None:
    halved = board_of(tmp_path, FIVE, "halved")
    assert best_of(halved) == {}
    assert best_of_note(halved).startswith("Not given for all methods: some of their trials were pruned.")
    write_leaderboard([Ledger(tmp_path / "halved")])
    assert best_of_note(halved) in (tmp_path / "halved" / "leaderboard" / "leaderboard.html").read_text()
    some = unpruned(tmp_path / "some", {"kd", "student"})
    assert set(best_of(some)) == {"kd", "student"}
    assert best_of_note(some).startswith("Not given for 2 of 4 methods")
    everywhere = unpruned(tmp_path / "all", set(FIVE.gains))
    assert (set(best_of(everywhere)), best_of_note(everywhere)) == (set(FIVE.gains), "")


@pytest.mark.parametrize(("trials", "advised"), [(8, False), (16, True)])
def test_a_wider_space_is_advised_only_after_enough_finished_trials(
    tmp_path: Path, trials: int, advised: bool
) -> None:
    spaces = {"kd": {"weight": (0.1, 1.0, True)}}
    board = board_of(tmp_path, FIVE.but(trials=trials), spaces=spaces)
    texts = [text for row in parameters_table(board).rows if row[0] == "kd" for text in row]
    assert any("at the upper end" in text for text in texts)
    assert any("widen the space" in text for text in texts) is advised
    assert any("6 finished trials are too few" in text for text in texts) is not advised


def test_a_class_that_is_never_found_is_marked_and_noted(tmp_path: Path) -> None:
    ledger = write_run(tmp_path / "run", FIVE)
    counts = ledger.read("counts").to_pandas()
    never = counts["class"] == 1
    counts.loc[never, "fn"] += counts.loc[never, "tp"]
    counts.loc[never, "tp"] = 0
    import pyarrow as pa

    blind = Ledger(tmp_path / "blind")
    blind.append("trials", ledger.read("trials"), "trials")
    blind.append("counts", pa.Table.from_pandas(counts, preserve_index=False), "counts")
    for source, marked in ((ledger, False), (blind, True)):
        (board,) = build_boards(read_run_records([source]))
        rows = {row[0]: row[1:] for row in class_table(board, board.pairs[0]).rows}
        assert all("∅" in text for text in rows["sky"]) is marked
        assert not any("∅" in text for text in rows["road"])
        assert any("no method finds sky" in note for note in board.notes) is marked


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ({"student": 0.0, "kd": 0.001}, "Not surely better than the student alone"),
        ({"student": 0.0, "kd": 0.1}, "Surely better than the student alone"),
    ],
)
def test_the_card_and_the_export_say_whether_the_student_is_surely_better_than_the_student_alone(
    tmp_path: Path, gains: dict[str, float], said: str
) -> None:
    ledger = write_run(tmp_path / "run", FIVE.but(gains=gains, pairs=("big_to_small",)))
    rows = [
        row for row in ledger.read("trials").to_pylist() if (row["phase"], row["method"]) == ("final", "kd")
    ]
    ledger.append(
        "trials",
        [{**row, "attempt": 2, "params": {}, "checkpoint": "kd.safetensors"} for row in rows],
        "again",
    )
    save_model(
        tmp_path / "run" / "kd.safetensors",
        build_model("fcn-test_resnet", 3, head_channels=8),
        CheckpointMetadata(("road", "sky", "tree")),
    )
    write_leaderboard([ledger])
    lines = export(ExportOptions(str(tmp_path / "run"), method="kd", output=tmp_path / "out", onnx=False))
    assert any(line.startswith(f"{said}") and "adjusted p" in line for line in lines)
    assert said in (tmp_path / "out" / "MODEL_CARD.md").read_text()
    students = {row["method"]: row for row in json.loads(ledger.read_bytes("leaderboard/students.json"))}
    assert students["student"]["claim"] is None
