from __future__ import annotations

import io
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.stats
from rich.console import Console

from orchestrator.console.run_view import run_view
from orchestrator.leaderboard.board import build_boards
from orchestrator.leaderboard.entries import Board, BoardRow
from orchestrator.leaderboard.files import write_leaderboard
from orchestrator.leaderboard.run_records import RunRecords, read_run_records
from orchestrator.leaderboard.texts import legend, verdict
from orchestrator.ledger.tables import Ledger
from tests.orchestrator.leaderboard.synthetic import Run, write_run

FIVE = Run(gains={"student": 0.0, "kd": 0.01, "cwd": 0.08, "mgd": 0.05}, seeds=(1, 2, 3, 4, 5))


def board_of(tmp_path: Path, run: Run, name: str = "run", **options: object) -> Board:
    (board,) = build_boards(read_run_records([write_run(tmp_path / name, run)]), **options)  # type: ignore[arg-type]
    return board


def show(ledger: Ledger) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(run_view(ledger))
    return console.export_text()


def row_of(board: Board, method: str) -> BoardRow:
    return next(row for row in board.rows if row.method == method)


def scores_of(ledger: Ledger) -> pd.DataFrame:
    """Test mIoU by method, pair and seed, from the tables by pandas alone."""
    trials = ledger.read("trials").to_pandas()
    finals = trials[trials["phase"] == "final"].set_index("trial_id")
    counts = ledger.read("counts").to_pandas().groupby(["trial_id", "class"])[["tp", "fp", "fn"]].sum()
    iou = (counts["tp"] / counts.sum(axis=1)).groupby("trial_id").mean()
    return finals.assign(miou=iou)[["method", "pair", "seed", "miou"]]


def test_means_gains_and_intervals_are_those_of_the_tables(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, FIVE)
    (board,) = build_boards(read_run_records([ledger]))
    table = scores_of(ledger).pivot_table(index="seed", columns=["method", "pair"], values="miou")
    for method in ("kd", "cwd", "mgd"):
        difference = (table[method] - table["student"]).mean(axis=1)
        expected = scipy.stats.ttest_1samp(difference, 0).confidence_interval(0.95)
        row = row_of(board, method)
        assert row.miou == pytest.approx(table[method].to_numpy().mean())
        assert row.gain == pytest.approx(difference.mean())
        assert (row.gain_low, row.gain_high) == pytest.approx((expected.low, expected.high))
        for pair in FIVE.pairs:
            one = table[method][pair] - table["student"][pair]
            interval = scipy.stats.ttest_1samp(one, 0).confidence_interval(0.95)
            cell = board.cells[pair, method]
            assert cell.gain is not None
            assert row.gain_per_pair[pair] == pytest.approx(one.mean())
            assert (cell.gain.low, cell.gain.high) == pytest.approx((interval.low, interval.high))
            gap = 0.8 - table["student"][pair].mean()
            assert cell.gap_closed is not None
            assert cell.gap_closed.mean == pytest.approx(one.mean() / gap)
        average_gap = 0.8 - table["student"].to_numpy().mean()
        assert row.teacher_gap_closed == pytest.approx(difference.mean() / average_gap)


def test_rows_stand_best_first_and_the_student_gains_nothing_by_definition(tmp_path: Path) -> None:
    board = board_of(tmp_path, FIVE)
    assert [row.method for row in board.rows] == ["cwd", "mgd", "kd", "student"]
    student = row_of(board, "student")
    assert (student.gain, student.gain_low, student.p_differs_from_student) == (0.0, None, None)
    assert student.train_cost_relative == 1.0
    assert row_of(board, "kd").train_cost_relative == 1.5
    assert row_of(board, "cwd").rank_low == 1
    assert row_of(board, "student").rank_high == 4


def test_the_order_in_which_rows_were_written_changes_no_byte(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain" / "run", FIVE)
    shuffled = Ledger(tmp_path / "shuffled" / "run")
    generator = np.random.default_rng(0)
    for table in ("trials", "counts", "models", "provenance"):
        rows = plain.read(table)
        order = generator.permutation(rows.num_rows)
        for part, places in enumerate(np.array_split(order, 3)):
            shuffled.append(table, rows.take(places), f"part-{part}")
    write_leaderboard([plain])
    write_leaderboard([shuffled])
    for name in ("LEADERBOARD.md", "leaderboard.csv", "leaderboard.json", "leaderboard.parquet"):
        path = f"leaderboard/{name}"
        assert plain.read_bytes(path) == shuffled.read_bytes(path), name


def test_new_names_for_methods_change_nothing_but_the_names(tmp_path: Path) -> None:
    records = read_run_records([write_run(tmp_path, FIVE)])
    names = {"cwd": "zz", "mgd": "aa", "kd": "mm"}
    renamed = replace(
        records, trials=tuple(replace(t, method=names.get(t.method, t.method)) for t in records.trials)
    )
    (before,), (after,) = build_boards(records), build_boards(renamed)
    assert [asdict(replace(row, method=names.get(row.method, row.method))) for row in before.rows] == [
        asdict(row) for row in after.rows
    ]


def test_a_method_that_never_ran_or_only_searched_moves_nobody(tmp_path: Path) -> None:
    before = board_of(tmp_path, FIVE)
    more = FIVE.but(gains={**FIVE.gains, "late": 0.3}, searched_only=frozenset({"late"}))
    after = board_of(tmp_path, more, "more")
    assert [asdict(row) for row in after.rows[:-1]] == [asdict(row) for row in before.rows]
    late = after.rows[-1]
    assert (late.method, late.rank_low, late.miou, late.gain) == ("late", None, None, None)
    assert {m.method for m in after.missing} == {"late"}
    assert "no final run is recorded yet; search trials so far: 3 ok, 1 pruned" in after.missing[0].reason


def test_a_failed_final_run_is_scored_as_the_student_alone_with_its_seed_and_marked(tmp_path: Path) -> None:
    board = board_of(tmp_path, FIVE.but(failed=frozenset({("cwd", "big_to_small", 3)})))
    whole = board_of(tmp_path, FIVE, "whole")
    row, cell = row_of(board, "cwd"), board.cells["big_to_small", "cwd"]
    assert "‡" in row.marks
    assert row.failures == cell.failures == cell.scored_as_student == 1
    untouched = whole.cells["big_to_small", "cwd"]
    assert cell.gain is not None
    assert untouched.gain is not None
    assert cell.gain.mean < untouched.gain.mean
    (missing,) = board.missing
    assert (missing.method, missing.seeds) == ("cwd", (3,))
    assert (
        missing.reason
        == "the final run failed at step 7: ValueError: the loss is nan; scored as the student alone"
    )
    assert "‡" not in row_of(board, "mgd").marks


def test_a_failed_student_takes_its_seed_out_of_every_mean(tmp_path: Path) -> None:
    failed = frozenset({("student", "big_to_small", 3), ("kd", "big_to_small", 3)})
    board = board_of(tmp_path, FIVE.but(failed=failed))
    without = board_of(tmp_path, FIVE.but(seeds=(1, 2, 4, 5)), "without")
    for method in ("kd", "cwd"):
        assert row_of(board, method).gain == row_of(without, method).gain
    reasons = {(m.method, m.reason.split("; ")[-1]) for m in board.missing}
    assert ("kd", "the student alone has no score to stand in") in reasons


def test_one_seed_has_means_and_no_intervals_no_probabilities_and_one_wide_rank(tmp_path: Path) -> None:
    board = board_of(tmp_path, FIVE.but(seeds=(1,)))
    for row in board.rows:
        assert row.gain is not None
        assert (row.miou_low, row.gain_low, row.gain_high, row.p_differs_from_student) == (None,) * 4
        assert (row.rank_low, row.rank_high) == (1, 4)


def test_a_difference_within_the_noise_of_test_pictures_is_not_sure(tmp_path: Path) -> None:
    """All of the gain lies in one picture of twelve: every seed agrees, another test set might not."""
    ledger = write_run(tmp_path / "a", FIVE.but(gains={"student": 0.0, "kd": 0.0}))
    trials, counts = ledger.read("trials"), ledger.read("counts").to_pandas()
    methods = dict(zip(trials["trial_id"].to_pylist(), trials["method"].to_pylist(), strict=True))
    students = {
        key: trial_id
        for trial_id, *key in trials.select(["trial_id", "method", "phase", "pair", "seed"])
        .to_pandas()
        .values.tolist()
        for key in [tuple(key)]
    }
    frames = []
    for trial_id, frame in counts.groupby("trial_id"):
        place = next(key for key, value in students.items() if value == trial_id)
        base = counts[counts["trial_id"] == students["student", *place[1:]]].copy()
        base["trial_id"] = trial_id
        if methods[trial_id] == "kd":
            moved = base["image"] == 0
            base.loc[moved, "tp"] += base.loc[moved, "fn"] // 2
            base.loc[moved, "fn"] -= base.loc[moved, "fn"] // 2
        frames.append(base)
        assert len(base) == len(frame)
    import pyarrow as pa

    narrow = Ledger(tmp_path / "narrow")
    narrow.append("trials", trials, "trials")
    narrow.append("counts", pa.Table.from_pandas(pd.concat(frames), preserve_index=False), "counts")
    (board,) = build_boards(read_run_records([narrow]))
    row = row_of(board, "kd")
    assert row.p_differs_from_student is not None
    assert row.p_differs_from_student < 0.001
    assert row.gain_image_low is not None
    assert row.gain_image_low <= 0.0 < row.gain_low  # type: ignore[operator]
    assert (row.rank_low, row.rank_high) == (1, 2)


def test_runs_without_counts_are_ranked_by_seeds_alone_and_say_so(tmp_path: Path) -> None:
    board = board_of(tmp_path, FIVE.but(with_counts=False))
    assert row_of(board, "cwd").gain_image_low is None
    assert row_of(board, "cwd").rank_low == 1
    assert any("have no counts" in note for note in board.notes)


def test_stray_pixels_of_a_class_that_test_lacks_change_no_score_and_the_board_names_the_class(
    tmp_path: Path,
) -> None:
    """The student predicts 5 pixels as `sign`, the methods none: all are averaged over the same four classes."""
    four = Run(classes=4)
    plain, stray = write_run(tmp_path / "plain", four), Ledger(tmp_path / "stray" / "run")
    for table in ("trials", "models", "provenance"):
        stray.append(table, plain.read(table), table)
    rows = plain.read("counts").to_pandas()
    extra = rows[(rows["class"] == 0) & (rows["image"] == 0)].assign(
        **{"class": 4, "class_name": "sign", "tp": 0, "fn": 0, "fp": 0}
    )
    students = plain.read("trials").to_pandas().query("method == 'student'")["trial_id"]
    extra.loc[extra["trial_id"].isin(students), "fp"] = 5
    schema = plain.read("counts").schema
    stray.append(
        "counts", pa.Table.from_pandas(pd.concat([rows, extra]), schema, preserve_index=False), "counts"
    )
    (before,), (after,) = (build_boards(read_run_records([ledger])) for ledger in (plain, stray))
    assert [row.miou for row in after.rows] == [row.miou for row in before.rows]
    assert not any("classes are scored" in note for note in before.notes)
    assert "4 of 5 classes are scored. No test label has sign" in " ".join(after.notes)


def test_a_run_off_the_protocol_is_marked_and_not_ranked(tmp_path: Path) -> None:
    board = board_of(tmp_path, FIVE.but(protocol="paper"))
    assert {row.rank_low for row in board.rows} == {None}
    assert all("†" in row.marks for row in board.rows)
    assert row_of(board, "cwd").gain is not None


def test_uncommitted_code_is_marked(tmp_path: Path) -> None:
    assert all("✎" in row.marks for row in board_of(tmp_path, FIVE.but(dirty=True)).rows)
    assert not any("✎" in row.marks for row in board_of(tmp_path, FIVE, "clean").rows)


def test_a_pair_under_two_recipes_makes_two_boards_and_runs_of_one_recipe_share_one(tmp_path: Path) -> None:
    short = Run(gains={"student": 0.0, "kd": 0.02})
    one = write_run(tmp_path / "one", short)
    two = write_run(tmp_path / "two", short.but(gains={"student": 0.0, "cwd": 0.1}, name="two"))
    other = write_run(tmp_path / "other", short.but(recipe="r1", name="other"))
    assert len(build_boards(read_run_records([one, two]))) == 1
    boards = build_boards(read_run_records([one, two, other]))
    assert [(board.rows[0].recipe, [row.method for row in board.rows]) for board in boards] == [
        ("r0-small r0-thin", ["cwd", "kd", "student"]),
        ("r1-small r1-thin", ["kd", "student"]),
    ]


def test_data_sets_and_protocols_never_share_a_board(tmp_path: Path) -> None:
    runs = [Run(), Run(name="b", dataset="cityscapes"), Run(name="c", protocol="paper")]
    ledgers = [write_run(tmp_path / run.name, run) for run in runs]
    boards = build_boards(read_run_records(ledgers))
    assert [(b.dataset, b.protocol) for b in boards] == [
        ("cityscapes", "clean"),
        ("scenes", "clean"),
        ("scenes", "paper"),
    ]


def test_unequal_budgets_are_told(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, Run())
    extra = ledger.read("trials").to_pylist()
    row = next(r for r in extra if r["method"] == "cwd" and r["phase"] == "search")
    ledger.append("trials", [{**row, "trial_id": "one-more", "params": {}}], "one-more")
    (board,) = build_boards(read_run_records([ledger]))
    told = f"Unequal search budgets on {row['pair']} (trials: methods): 5: cwd; 4: kd, student."
    assert told in board.notes
    assert (row_of(board, "cwd").trials_min, row_of(board, "cwd").trials_max) == (4, 5)
    assert verdict(board).endswith("The search budgets are unequal: 4 to 5 trials per method and pair.")
    assert {row.method: row.marks for row in board.rows} == {"cwd": "≠", "kd": "", "student": ""}
    assert "≠ searched with more or fewer trials" in legend(board)
    assert f"{row['pair']}: searched with unequal numbers of trials so far: cwd 5, kd 4, student 4." in show(
        ledger
    )


def test_the_verdict_names_who_surely_beats_the_student_alone_and_says_where_none_does(
    tmp_path: Path,
) -> None:
    clear = board_of(tmp_path, FIVE, "clear")
    assert verdict(clear).startswith("cwd is surely better than every other ranked method.")
    noise = FIVE.but(gains={"student": 0.0, "kd": 0.0, "cwd": 0.0})
    assert verdict(board_of(tmp_path, noise, "noise")).endswith(
        "Compared with the student alone, none is surely better or surely worse."
    )
    one = FIVE.but(gains={"student": 0.0, "kd": 0.0, "cwd": 0.1})
    assert verdict(board_of(tmp_path, one, "one")).endswith(
        "Compared with the student alone, cwd is surely better."
    )


def test_a_teacher_worse_than_its_student_stands_beside_the_table(tmp_path: Path) -> None:
    weak = board_of(tmp_path / "weak", Run(teacher_miou=0.1)).notes
    assert any("The teacher is worse than its student on big_to_small: 10.0 mIoU" in note for note in weak)
    strong = board_of(tmp_path / "strong", Run(teacher_miou=0.99)).notes
    assert not any("worse than its student" in note for note in strong)


def test_a_later_final_run_of_the_same_place_counts_and_is_told(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, Run())
    rows = ledger.read("trials").to_pylist()
    row = next(r for r in rows if r["method"] == "kd" and r["phase"] == "final" and r["seed"] == 1)
    later = row["finished_at"].replace(year=2027)
    ledger.append(
        "trials", [{**row, "trial_id": "z", "finished_at": later, "test_miou": 0.9, "params": {}}], "z"
    )
    (board,) = build_boards(read_run_records([ledger]))
    assert board.cells[row["pair"], "kd"].miou.mean > 0.5  # type: ignore[union-attr]
    assert any("was followed by a later one" in note for note in board.notes)


def test_a_score_that_its_counts_contradict_is_told_and_the_counts_stand(tmp_path: Path) -> None:
    ledger = write_run(tmp_path / "a", Run())
    rows = ledger.read("trials").to_pandas()
    rows.loc[rows["method"].eq("kd") & rows["phase"].eq("final"), "test_miou"] = 0.99
    import pyarrow as pa

    false = Ledger(tmp_path / "b")
    schema = ledger.read("trials").schema
    false.append("trials", pa.Table.from_pandas(rows, schema=schema, preserve_index=False), "trials")
    false.append("counts", ledger.read("counts"), "counts")
    (board,), (true,) = build_boards(read_run_records([false])), build_boards(read_run_records([ledger]))
    assert row_of(board, "kd").miou == row_of(true, "kd").miou
    assert any("the trial says 99.00" in note for note in board.notes)


def test_a_best_value_near_an_end_of_its_space_is_flagged(tmp_path: Path) -> None:
    spaces = {
        "kd": {"weight": (0.1, 1.1, True)},
        "cwd": {"weight": (0.98, 100.0, False)},
        "student": {"recipe.lr": (0.25, 4.0, True)},
    }
    board = board_of(tmp_path, Run(), spaces=spaces)
    flags = {method: dict(board.cells["big_to_small", method].on_edge) for method in spaces}
    assert flags == {"kd": {"weight": "upper"}, "cwd": {"weight": "lower"}, "student": {}}


@pytest.mark.parametrize("kept", [0, 1, 2, 5, 17, 30])
def test_a_half_finished_run_makes_a_board_and_gives_a_reason_for_every_gap(
    tmp_path: Path, kept: int
) -> None:
    whole = write_run(tmp_path / "whole", Run())
    part = Ledger(tmp_path / "part")
    rows = whole.read("trials").sort_by("finished_at")
    part.append("provenance", whole.read("provenance"), "provenance")
    if kept:
        part.append("trials", rows.slice(0, kept), "trials")
    part.append("counts", whole.read("counts"), "counts")
    written = write_leaderboard([part])
    boards = build_boards(read_run_records([part]))
    for board in boards:
        for pair in {p.pair for p in board.pairs}:
            for row in board.rows:
                done = board.cells[pair, row.method].seeds
                reasons = [m for m in board.missing if (m.pair, m.method) == (pair, row.method)]
                assert reasons or done == len(board.seeds)
    assert Path(written.path).read_text().startswith("# Leaderboard")


def test_every_pair_of_method_and_seed_of_the_plan_has_a_score_or_a_reason(tmp_path: Path) -> None:
    gone = frozenset({("kd", "wide_to_thin", 2)})
    board = board_of(tmp_path, Run(left_out=gone))
    assert [(m.method, m.pair, m.seeds) for m in board.missing] == [("kd", "wide_to_thin", (2,))]
    assert row_of(board, "kd").seeds == 2


def test_an_attempt_that_succeeds_takes_the_place_of_one_that_failed(tmp_path: Path) -> None:
    run = Run()
    failed = write_run(tmp_path / "a", run.but(failed=frozenset({("kd", "big_to_small", 1)})))
    whole = write_run(tmp_path / "b", run)
    old = {r["trial_id"]: r for r in failed.read("trials").to_pylist() if r["status"] == "failed"}
    for row in whole.read("trials").to_pylist():
        if row["trial_id"] in old:
            again = {**row, "attempt": 2, "params": {}}
            failed.append("trials", [again], f"{row['trial_id']}-2")
    failed.append("counts", whole.read("counts"), "counts")
    (board,), (expected,) = build_boards(read_run_records([failed])), build_boards(read_run_records([whole]))
    assert row_of(board, "kd").failures == 0
    assert row_of(board, "kd").gain == row_of(expected, "kd").gain


def test_evidence_of_two_ledgers_with_the_same_trials_is_that_of_one(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, Run())
    one, two = read_run_records([ledger]), read_run_records([ledger, Ledger(tmp_path)])
    assert isinstance(one, RunRecords)
    assert one.trials == two.trials
    assert build_boards(one)[0].rows == build_boards(two)[0].rows
