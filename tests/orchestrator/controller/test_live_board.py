"""The board of a running sweep: when it is written, what it has of trials that train, and an error of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.controller.live_board import LiveBoard
from orchestrator.controller.phase_runner import PhaseView
from orchestrator.controller.run_state import Run
from orchestrator.controller.wave_scheduler import WaveScheduler
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import make_plan
from orchestrator.protocol import Report
from tests.distill.data.buckets import at
from tests.orchestrator.leaderboard.synthetic import START
from tests.orchestrator.sweeps import SMALL


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "run" / "tables").mkdir(parents=True)  # a sweep begins it with its provenance
    return Run(Ledger(tmp_path / "run"), make_plan(load_sweep(str(SMALL))))


def begun(run: Run) -> WaveScheduler:
    """The scheduler of the students' phase, with its first wave open and without reports."""
    scheduler = WaveScheduler(run.config, run.plan.students, {})
    scheduler.open_first()
    return scheduler


def training(run: Run) -> PhaseView:
    """The students' phase, with its first wave at its second report."""
    scheduler = begun(run)
    for trial_id in list(scheduler.trials):
        for step, miou in ((4, 0.1), (8, 0.2)):
            terms = {"task": 1.0}
            scheduler.add_report(Report(trial_id, step, tune_miou=miou, terms_weighted=terms))
    return PhaseView("students", scheduler, 10)


def written(run: Run, view: PhaseView, clock: Clock, say: Callable[[str], None]) -> str:
    board = LiveBoard(run, say, clock)
    board.watch(view)
    board.close()
    return run.ledger.read_bytes("leaderboard/leaderboard.html").decode()


def test_before_the_first_trial_has_ended_the_page_has_the_curves_of_those_that_train(run: Run) -> None:
    said: list[str] = []
    text = written(run, training(run), Clock(), said.append)
    assert f"unfinished: 0 of {run.plan.trainings} trainings, written" in text
    assert 'class="main"' in text
    assert said == []


def test_the_board_is_written_once_a_minute(run: Run) -> None:
    clock, view = Clock(), training(run)
    board = LiveBoard(run, print, clock)
    page = Path(run.ledger.root, "leaderboard", "leaderboard.html")
    for now, is_due in ((0.0, True), (59.0, False), (60.0, True), (61.0, False)):
        page.unlink(missing_ok=True)
        clock.now = now
        board.watch(view)
        board.close()
        assert page.exists() is is_due, now


def test_a_run_in_an_object_store_has_a_page_that_the_next_writing_replaces(
    s3_server: str, tmp_path: Path
) -> None:
    ledger = Ledger(at(s3_server, "run"))
    ledger.append("provenance", [{"provenance_id": "p", "command": "", "created_at": START}], "p")
    run, clock, said = Run(ledger, make_plan(load_sweep(str(SMALL)))), Clock(), list[str]()
    board = LiveBoard(run, said.append, clock)
    curves = []
    for now, view in ((0.0, PhaseView("students", begun(run), 10)), (60.0, training(run))):
        clock.now = now
        board.watch(view)
        board.close()
        page = ledger.read_bytes("leaderboard/leaderboard.html").decode()
        assert "data-refresh" in page
        curves.append('class="main"' in page)
    assert curves == [False, True]
    assert said == []


def test_a_board_that_cannot_be_written_is_one_warning_and_no_error(run: Run) -> None:
    Path(run.ledger.root, "leaderboard").write_text("a file where the folder should be")
    said: list[str] = []
    clock = Clock()
    board = LiveBoard(run, said.append, clock)
    for now in (0.0, 60.0, 120.0):
        clock.now = now
        board.watch(training(run))
        board.close()
    assert len(said) == 1
    assert said[0].startswith(
        "WARNING: the board of the running sweep could not be written, the sweep goes on"
    )
