"""How soon a cohort of slow students hears of a stop, and what it has done by then. Steps take made-up seconds; no Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill.training import Student
from orchestrator.controller.cohort_channel import CohortChannel
from orchestrator.controller.report_queue import ReportQueue
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.plan import bracket_trials, make_plan
from orchestrator.protocol import CohortJob, CohortProgress, WaveOrder, WorkerStart
from orchestrator.worker import cost_account, round_length
from orchestrator.worker.carried_teacher import CarriedTeacher
from orchestrator.worker.cohort_trainer import CohortTrainer, StopRequestedError
from tests.orchestrator.sweep_files import tiny_sweep
from tests.orchestrator.worker.alone import alone_worker

STUDENTS, STEPS = 16, 6
STEP_SECONDS, ROUND_SECONDS = 0.5, 2.0
CONFIG = tiny_sweep(
    methods=["student"], search__trials=STUDENTS, search__bracket=STUDENTS, search__wave=STUDENTS, search__rungs=[],
    operation__round_seconds=ROUND_SECONDS, recipes__student__steps=STEPS,
)  # fmt: skip
COHORT = replace(make_plan(CONFIG).students[0], teacher=None)
ORDER = WaveOrder(
    COHORT.waves[0], tuple(bracket_trials(CONFIG, COHORT, COHORT.waves[0], COHORT.waves[0].brackets[0], {}))
)


@dataclass
class Slow:
    """A clock that only steps of students move, and how many there were."""

    now: float = 0.0
    steps: int = 0
    at_step: Callable[[int], None] = lambda steps: None

    def monotonic(self) -> float:
        return self.now


@dataclass
class Channel:
    """A cohort channel in this process, with the student steps at which it heard from the worker."""

    slow: Slow
    heard: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.reports = ReportQueue()
        self._channel = CohortChannel(1, self.reports)
        self.open_wave(ORDER)

    def heartbeat(self, progress: CohortProgress) -> bool:
        if progress.activity == "training":
            self.heard.append(self.slow.steps)
        return bool(self._loop.run_until_complete(self._channel.heartbeat(progress)))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._channel, name)
        return lambda *arguments: self._loop.run_until_complete(method(*arguments))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    found, end_step = Slow(), Student.end_step

    def slow_step(student: Student) -> None:
        end_step(student)
        found.now += STEP_SECONDS
        found.steps += 1
        found.at_step(found.steps)

    monkeypatch.setattr(Student, "end_step", slow_step)
    for module in (round_length, cost_account):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=found.monotonic))
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    return found


def train(folder: Path, slow: Slow, channel: Channel) -> None:
    job = CohortJob(str(folder), CONFIG, COHORT, channel, "c")
    trainer = CohortTrainer(job, alone_worker(), WorkerStart(False, {}, False), CarriedTeacher())
    try:
        trainer.run_wave(ORDER)
    finally:
        trainer.close()


def results(channel: Channel) -> dict[str, Any]:
    """The last report of every trial, without what is measured."""
    last = {trial.trial_id: channel.reports.reports_of(trial.trial_id)[-1] for trial in ORDER.trials}
    return {t: (r.step, r.status, r.tune_miou, r.terms_raw, r.terms_weighted) for t, r in last.items()}


def test_a_cohort_of_slow_students_is_heard_every_few_seconds_and_stops_within_a_step_with_a_sound_checkpoint(
    tmp_path: Path, slow: Slow
) -> None:
    """The stop comes in the middle of a step of all students. Afterwards nothing is trained twice, and no loss differs."""
    at_once = Channel(slow)
    train(tmp_path / "at once", slow, at_once)
    total = STUDENTS * STEPS
    assert slow.steps == total
    a_round = int(ROUND_SECONDS / STEP_SECONDS)
    assert at_once.heard[0] == 1
    assert max(b - a for a, b in zip(at_once.heard, at_once.heard[1:], strict=False)) <= a_round
    walls = {at_once.reports.reports_of(t.trial_id)[-1].costs.wall_seconds for t in ORDER.trials}
    assert walls == {total * STEP_SECONDS}

    stopped, signal = Channel(slow), 2 * STUDENTS + 5
    slow.steps = 0
    slow.at_step = lambda steps: stopped.stop() if steps == signal else None
    with suppress(StopRequestedError):
        train(tmp_path / "run", slow, stopped)
    assert signal <= slow.steps <= signal + a_round
    assert slow.steps % STUDENTS, "it was in the middle of a step of all students"
    manifests = [
        path for path in Ledger(tmp_path / "run").list("checkpoints") if path.endswith("manifest.json")
    ]
    assert len(manifests) == 1

    slow.now += 12 * 3600  # the night until the next command
    slow.at_step = lambda steps: None
    again = Channel(slow)
    train(tmp_path / "run", slow, again)
    assert slow.steps == total
    assert results(again) == results(at_once)
    walls = {again.reports.reports_of(t.trial_id)[-1].costs.wall_seconds for t in ORDER.trials}
    assert walls == {total * STEP_SECONDS}
