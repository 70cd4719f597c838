"""Which curves a page draws, and how small they are; and what a page of an unfinished run says."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

from orchestrator.leaderboard.files import write_leaderboard
from orchestrator.leaderboard.run_records import read_run_records
from orchestrator.leaderboard.training_curves import (
    TrialCurve,
    pair_curves,
    points_per_line,
    read_curves,
    trial_curve,
)
from orchestrator.leaderboard.unfinished import Unfinished
from tests.orchestrator.leaderboard.synthetic import Run, write_run

NOON = datetime.datetime(2026, 3, 1, 12, 3, tzinfo=datetime.UTC)


def curve(number: int, values: list[float], method: str = "kd", phase: str = "final") -> TrialCurve:
    rows = [{"step": 10 * (k + 1), "tune_miou": v, "loss_total": 1 / (k + 1)} for k, v in enumerate(values)]
    return trial_curve(
        rows, trial_id=f"t{number}", dataset="d", pair="p", method=method, family="logits", phase=phase, compare="steps"
    )  # fmt: skip


def main_lines(svg: str | None) -> dict[str, str]:
    return dict(re.findall(r'data-m="([^"]+)".*?class="main" d="([^"]*)"', svg or ""))


def test_a_study_has_the_curves_of_its_final_runs_and_before_the_first_one_those_of_its_search(
    tmp_path: Path,
) -> None:
    ledger = write_run(tmp_path, Run(pairs=("big_to_small",), searched_only=frozenset({"cwd"})))
    records = read_run_records([ledger])
    phases = {(c.method, c.phase) for c in read_curves([ledger], records)}
    assert phases == {("student", "final"), ("kd", "final"), ("cwd", "search")}


def test_the_thick_line_is_the_mean_of_final_runs_where_all_have_a_score() -> None:
    short, long = curve(1, [0.1, 0.3]), curve(2, [0.3, 0.5, 0.9])
    level = curve(3, [0.2, 0.4, 0.9], method="other")
    drawn = pair_curves("p", [short, long, level], ["kd"], 20)
    assert drawn is not None
    lines = main_lines(drawn.score)
    begin = re.match(r"M(\d+) (\d+)l(\d+ ?-?\d+)", lines["other"])
    assert begin is not None
    assert lines["kd"] == begin.group(0)


def test_the_thick_line_of_a_search_is_its_best_trial() -> None:
    worse, best = curve(1, [0.1, 0.2], phase="search"), curve(2, [0.1, 0.6], phase="search")
    alone = curve(3, [0.1, 0.6], method="other", phase="search")
    drawn = pair_curves("p", [worse, best, alone], [], 20)
    assert drawn is not None
    assert main_lines(drawn.score)["kd"] == main_lines(drawn.score)["other"]
    assert "the best so far" in drawn.note


def test_the_curves_of_a_thousand_trainings_fit_into_a_page_for_mail() -> None:
    curves = [
        curve(n, [0.5 + 0.4 * ((k * 7 + n) % 50) / 50 for k in range(100)], method=f"m{n % 25}")
        for n in range(1000)
    ]
    drawn = pair_curves("p", curves, [], points_per_line(curves))
    assert drawn is not None
    assert drawn.score is not None
    assert drawn.loss is not None
    assert len(main_lines(drawn.score)) == 12
    assert len(drawn.score) + len(drawn.loss) < 20_000
    assert points_per_line(curves[:3]) > 40


def test_a_loss_that_is_not_a_number_leaves_a_gap_and_no_broken_drawing() -> None:
    drawn = pair_curves("p", [curve(1, [0.1, float("nan"), 0.3])], [], 20)
    assert drawn is not None
    assert "nan" not in f"{drawn.score}"
    assert pair_curves("p", [curve(1, [0.1])], [], 20) is None


def test_a_page_of_an_unfinished_run_says_how_far_it_is_and_loads_itself_again(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, Run(pairs=("big_to_small",)))
    ended = len(read_run_records([ledger]).trials)
    running = curve(1, [0.1, 0.2], method="new", phase="search")
    page = Path(write_leaderboard([ledger], unfinished=Unfinished(99, NOON, (running,))).page)
    text = page.read_text()
    assert f"unfinished: {ended} of 99 trainings, written 12:03 UTC" in text
    assert 'data-refresh="60"' in text
    assert 'data-m="new"' in text
    write_leaderboard([ledger], unfinished=Unfinished(99))
    assert (
        f"unfinished: {ended} of 99 trainings; the command of the run goes on from here" in page.read_text()
    )
    assert "data-refresh" not in page.read_text()
    write_leaderboard([ledger])
    assert "unfinished" not in page.read_text()


def test_the_curves_of_trials_that_train_are_with_those_of_their_study(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, Run(pairs=("big_to_small",), searched_only=frozenset({"kd"})))
    running = trial_curve(
        [{"step": s, "tune_miou": s / 100, "loss_total": 1.0} for s in (10, 20)],
        trial_id="running", dataset="scenes", pair="big_to_small", method="kd", family="logits", phase="search",
        compare="steps",
    )  # fmt: skip
    text = Path(write_leaderboard([ledger], unfinished=Unfinished(99, NOON, (running,))).page).read_text()
    (seeds,) = re.findall(
        r'<g class="f-logits" data-m="kd"><title>[^<]*step[^<]*</title><svg[^>]*><path class="seeds" d="([^"]*)"',
        text,
    )[:1]
    assert seeds.count("M") == 4 + 1
    assert "<h2>Running</h2>" not in text


def test_every_negative_number_of_a_page_has_a_minus_sign(tmp_path: Path) -> None:
    gains = {"student": 0.0, "kd": -0.1, "cwd": 0.1}
    ledger = write_run(tmp_path, Run(gains=gains, seeds=(1, 2, 3, 4, 5)))
    page = Path(write_leaderboard([ledger]).page)
    for text in (page.read_text(), page.with_name("LEADERBOARD.md").read_text()):
        seen = re.sub(r"<(script|style).*?</\1>|<!--.*?-->", "", text, flags=re.DOTALL)
        words = re.sub(r"<[^>]*>|\bp-run\b|\d{4}-\d\d-\d\d", " ", seen)
        assert "−" in words
        assert re.findall(r"(?<![\w–-])-\d[\d.]*", words) == []
