"""How soon a cohort of slow students hears of a stop, and what it has done by then. Steps take made-up seconds; no Ray."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from distill.training import Student
from orchestrator.controller.cohort_channel import CohortChannel
from orchestrator.controller.report_queue import ReportQueue
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.plan import bracket_trials, make_plan
from orchestrator.protocol import CohortJob, CohortProgress, Report, WaveOrder, WorkerStart
from orchestrator.worker import cost_account, round_length
from orchestrator.worker.carried_teacher import CarriedTeacher
from orchestrator.worker.cohort_trainer import CohortTrainer, StopRequestedError
from orchestrator.worker.data_parallel import Workers
from tests.orchestrator.sweep_files import tiny_sweep
from tests.orchestrator.worker.alone import alone_worker

STUDENTS, STEPS = 16, 3
STEP_SECONDS, ROUND_SECONDS = 0.5, 2.0


@dataclass
class Work:
    """One wave of students without a teacher."""

    students: int
    steps: int
    compute: dict[str, Any] = field(default_factory=dict)
    round_seconds: float = ROUND_SECONDS

    def __post_init__(self) -> None:
        most = {f"search__{name}": self.students for name in ("trials", "bracket", "wave")}
        self.config = tiny_sweep(
            methods=["student"], search__rungs=[], recipes__student__steps=self.steps, compute=self.compute,
            operation__round_seconds=self.round_seconds, **most,
        )  # fmt: skip
        self.cohort = replace(make_plan(self.config).students[0], teacher=None)
        [wave] = [wave for wave in self.cohort.waves if wave.phase == "search"]
        trials = bracket_trials(self.config, self.cohort, wave, wave.brackets[0], {})
        self.order = WaveOrder(wave, tuple(trials))


WORK = Work(STUDENTS, STEPS)


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

    slow: Slow = field(default_factory=Slow)
    heard: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.reports = ReportQueue()
        self._channel = CohortChannel(1, self.reports)

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


def train(folder: Path, channel: Channel, work: Work = WORK, workers: Workers | None = None) -> None:
    workers = workers or alone_worker()
    workers.free_memory = lambda: None  # type: ignore[method-assign]  # a collection for each student takes longer than all steps
    job = CohortJob(str(folder), work.config, work.cohort, channel, "c")
    start = WorkerStart(False, {}, False)
    trainer = CohortTrainer(job, workers, start, CarriedTeacher())
    try:
        trainer.run_wave(work.order)
    finally:
        trainer.close()


def last_reports(channel: Channel, work: Work = WORK) -> dict[str, Report]:
    reports = {trial.trial_id: channel.reports.reports_of(trial.trial_id) for trial in work.order.trials}
    return {trial_id: found[-1] for trial_id, found in reports.items() if found}


def results(channel: Channel, work: Work = WORK) -> dict[str, Any]:
    """The last report of every trial, without what is measured."""
    return {
        trial_id: [r.step, r.status, r.tune_miou, r.terms_raw, r.terms_weighted]
        for trial_id, r in last_reports(channel, work).items()
    }


def test_each_student_is_first_after_the_teacher_in_its_turn(
    tmp_path: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pays for cold caches, and what a step costs is compared between students."""
    trained: list[int] = []
    begin_step = Student.begin_step

    def noted(student: Student, batch: Any) -> None:
        trained.append(id(student))
        begin_step(student, batch)

    monkeypatch.setattr(Student, "begin_step", noted)
    train(tmp_path, Channel(slow), Work(students=3, steps=3))
    steps = [trained[at : at + 3] for at in range(0, 9, 3)]
    assert all(set(step) == set(trained) and len(set(step)) == 3 for step in steps)
    assert len({step[0] for step in steps}) == 3


def test_a_cohort_of_slow_students_is_heard_every_few_seconds_and_stops_within_a_step_with_a_sound_checkpoint(
    tmp_path: Path, slow: Slow
) -> None:
    """The stop comes in the middle of a step of all students. Afterwards nothing is trained twice, and no loss differs."""
    at_once = Channel(slow)
    train(tmp_path / "at once", at_once)
    total = STUDENTS * STEPS
    assert slow.steps == total
    a_round = int(ROUND_SECONDS / STEP_SECONDS)
    assert at_once.heard[0] == 1
    assert max(b - a for a, b in zip(at_once.heard, at_once.heard[1:], strict=False)) <= a_round
    walls = {report.costs.wall_seconds for report in last_reports(at_once).values()}
    assert walls == {total * STEP_SECONDS}

    stopped, signal = Channel(slow), STUDENTS + 5
    slow.steps = 0
    slow.at_step = lambda steps: stopped.stop() if steps == signal else None
    with suppress(StopRequestedError):
        train(tmp_path / "run", stopped)
    assert signal <= slow.steps <= signal + a_round
    assert slow.steps % STUDENTS, "it was in the middle of a step of all students"
    manifests = [
        path for path in Ledger(tmp_path / "run").list("checkpoints") if path.endswith("manifest.json")
    ]
    assert len(manifests) == 1

    slow.now += 12 * 3600  # the night until the next command
    slow.at_step = lambda steps: None
    again = Channel(slow)
    train(tmp_path / "run", again)
    assert slow.steps == total
    assert results(again) == results(at_once)
    walls = {report.costs.wall_seconds for report in last_reports(again).values()}
    assert walls == {total * STEP_SECONDS}


def _two_workers(rank: int, folder: str, parallelism: str) -> None:
    """One of two workers: trains a wave with an exchange after every student, and another time without any inside a step."""
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = []
    for round_seconds in (0.0, 3600.0):
        workers = alone_worker()
        workers.rank, workers.world_size, workers.is_rank_0, workers.is_alone = rank, 2, rank == 0, False
        workers._objects, workers.reduce = dist.new_group(backend="gloo"), workers._mean
        work, channel = Work(3, 3, {"workers": 2, "parallelism": parallelism}, round_seconds), Channel()
        train(Path(folder) / f"{round_seconds}", channel, work, workers)
        found.append(results(channel, work))
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_that_share_batches_exchange_inside_a_step_without_a_change_of_any_loss(
    tmp_path: Path,
) -> None:
    run: Callable[..., Any] = mp.spawn  # type: ignore[attr-defined]
    run(_two_workers, (str(tmp_path), "batches"), nprocs=2)
    often, seldom = json.loads((tmp_path / "0.json").read_text())
    assert len(often) == 3
    assert often == seldom
