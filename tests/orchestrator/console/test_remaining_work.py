"""A phase that is played without Ray, at a constant pace: what is said about it while it runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rich.console import Console

from orchestrator.console.progress import ProgressView, _live_view, joined, span
from orchestrator.console.remaining_work import Work, expected_steps, work_of
from orchestrator.controller.phase_runner import PhaseView
from orchestrator.controller.wave_scheduler import WaveScheduler
from orchestrator.planning.plan import make_plan
from orchestrator.protocol import CohortProgress, Costs, Report
from tests.orchestrator.sweep_files import tiny_sweep

PLAN = make_plan(tiny_sweep(search__trials=16, search__bracket=8, search__wave=8))
COHORT = PLAN.students[0]


def phase() -> Iterator[tuple[float, PhaseView]]:
    """Student-steps that were trained so far, and the view, after each step of all students of each wave."""
    scheduler = WaveScheduler(PLAN.config, [COHORT], {})
    view = PhaseView("students", scheduler, COHORT.trials)
    trained = 0.0
    yield trained, view
    while (order := scheduler.open_next(COHORT.cohort_id)) is not None:
        alive = [trial.trial_id for trial in order.trials]
        for step in range(1, order.wave.steps + 1):
            trained += len(alive)
            at = CohortProgress(order.wave.index, step, order.wave.steps, len(alive), "training")
            view.progress = [(COHORT.cohort_id, at)]
            if step in order.wave.rungs:
                for place, trial_id in enumerate(alive):
                    scheduler.add_report(Report(trial_id, step, tune_miou=place / 100))
                for decision in scheduler.decisions():
                    for trial_id in decision.drop:
                        scheduler.add_report(Report(trial_id, step, "pruned", tune_miou=0.1))
                        alive.remove(trial_id)
            yield trained, view
        for trial_id in alive:
            is_final = scheduler.trials[trial_id].trial.phase == "final"
            score = {"test_miou": 0.7} if is_final else {}
            scheduler.add_report(
                Report(trial_id, step, "ok", tune_miou=0.5, costs=Costs(student_seconds=100), **score)
            )
        scheduler.decisions()
        yield trained, view


@pytest.mark.parametrize(
    ("trials", "total"), [(8, 8 * 2 + 4 * 2 + 2 * 6), (7, 7 * 2 + 4 * 2 + 2 * 6), (1, 10), (0, 0)]
)
def test_the_steps_of_a_bracket_are_known_beforehand(trials: int, total: int) -> None:
    assert expected_steps(trials, (2, 4), 10) == total


def test_the_estimate_of_the_time_left_does_not_swing_at_a_constant_pace() -> None:
    moments = [(trained, work_of(view.scheduler, view.progress)) for trained, view in phase()]
    start, whole = moments[0][1], moments[-1][0]
    assert start == Work(0.0, whole, 0.0), "the whole work is known before it begins"
    for trained, work in moments:
        assert work.done == trained
        assert work.done + work.left == whole
        left = work.seconds_left(start, 10 * trained)
        assert left is None or left == pytest.approx(10 * (whole - trained))


def test_nothing_is_said_about_the_time_left_before_a_pace_is_known() -> None:
    start = Work(50.0, 1000.0, 0.0)
    assert Work(60.0, 990.0, 80.0).seconds_left(start, 100.0) is None
    assert Work(100.0, 950.0, 400.0).seconds_left(start, 5.0) is None
    assert Work(100.0, 950.0, 400.0).seconds_left(start, 100.0) == pytest.approx(1900)


def test_the_live_view_has_no_internal_names_and_fits_80_columns() -> None:
    shown = []
    for _, view in phase():
        work = work_of(view.scheduler, view.progress)
        console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115  (80 would wrap)
        console.print(
            _live_view(view, work, ["128 images/s", "about 4 min left", "0.12 worker-hours", "x" * 40])
        )
        shown.append(console.export_text())
    for text in shown:
        assert COHORT.cohort_id not in text
        assert max(map(len, text.splitlines())) <= 80
    assert "test_vit → test_resnet " in shown[-1]
    assert "search 0 of 48" in shown[0]
    assert "70.0" in shown[-1], "final scores"
    assert "100 %" in shown[-1]


def test_parts_are_broken_between_lines_and_never_inside() -> None:
    assert joined(["a" * 40, "b" * 36, "c" * 30], 79) == [f"{'a' * 40} · {'b' * 36}", "c" * 30]
    assert joined(["x" * 100], 79) == ["x" * 100]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "10 s"), (44, "40 s"), (55, "1 min"), (200, "3 min"), (3600, "1 h"), (5100, "1 h 25 min")],
)
def test_a_time_has_as_many_digits_as_an_estimate_has(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_log_gets_one_line_at_the_start_and_one_at_the_end() -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with ProgressView(console) as progress:
        for _, view in phase():
            progress.watch(view)
    lines = console.export_text().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("search 0 of 48")
    assert "worker-hours" in lines[1]
