"""The memory of a student among others: on a fake GPU, and through a cohort's rounds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distill.recipe import Recipe
from distill.testing.device_step import Case, spec_of
from distill.testing.device_watch import Watch
from distill.testing.fake_cuda import CUDA, fake_cuda
from distill.training import Batch, Student
from orchestrator.protocol import Costs
from orchestrator.worker import cohort_trainer
from orchestrator.worker.cost_account import CostAccount
from orchestrator.worker.student_memory import StudentMemory
from tests.orchestrator.worker.test_rounds import Channel, Work, last_reports, train

RECIPE = Recipe.model_validate(
    {"steps": 9, "batch_size": 2, "augmentation": {"crop": [64, 128]}, "lr": 0.01, "optimizer": "adamw", "ema_decay": 0.9}
)  # fmt: skip
SMALL = Case(
    "segformer-test_vit", "deeplabv3-test_resnet", RECIPE, "student", student_options={"head_channels": 32}
)
LARGE = replace(SMALL, student_options={"head_channels": 128})


@dataclass
class WatchedAllocator:
    """The memory of a watched device."""

    watch: Watch

    def begin(self) -> int:
        self.watch.mark()
        return self.watch.live

    def peak(self) -> int:
        return self.watch.mark().peak


def own_peaks(*cases: Case) -> list[int]:
    """What a cost account has for each of these students after a round together."""
    with fake_cuda() as watch:
        slots: list[Any] = [
            SimpleNamespace(
                trial=SimpleNamespace(trial_id=f"{number}"), student=Student(spec_of(case), None, device=CUDA), costs=Costs(),
                needs_teacher=False, ended=False,
            )
            for number, case in enumerate(cases)
        ]  # fmt: skip
        memory = StudentMemory(WatchedAllocator(watch))
        one_worker: Any = SimpleNamespace(sharers=1, total=float)
        feed: Any = SimpleNamespace(take_saved_seconds=float)
        account = CostAccount(one_worker, feed, SimpleNamespace(training=lambda: slots), memory)  # type: ignore[arg-type]
        images = torch.zeros(2, 3, 64, 128, device=CUDA)
        labels = torch.zeros(2, 64, 128, dtype=torch.int64, device=CUDA)
        batch = Batch(images, labels, torch.zeros(2), None)
        for slot in slots:
            with memory.measure(slot.trial.trial_id):
                slot.student.train_step(batch)
            assert slot.student._failure is None
        account.add_round(slots, SimpleNamespace(read=dict))  # type: ignore[arg-type]
        return [slot.costs.peak_memory_bytes for slot in slots]


@pytest.mark.slow
def test_a_students_peak_is_the_same_alone_and_beside_a_larger_one() -> None:
    [small], [large] = own_peaks(SMALL), own_peaks(LARGE)
    assert large > 1.5 * small
    assert own_peaks(SMALL, LARGE) == [small, large]


def test_what_a_student_keeps_is_what_the_device_has_allocated_for_it() -> None:
    # Without an average: the fake device counts copies of the gradients when it copies a model.
    recipe = RECIPE.model_copy(update={"ema_decay": None})
    with fake_cuda() as watch:
        before = watch.live
        student = Student(spec_of(replace(SMALL, recipe=recipe)), None, device=CUDA)
        assert student.kept_bytes() == pytest.approx(watch.live - before, rel=0.001)
        weights = sum(each.numel() * 4 for each in student.model.parameters())
        assert student.kept_bytes() > 4 * weights, "weights, gradients and two moments"


@dataclass
class PlayedAllocator:
    """A device whose memory only the steps of students use."""

    use: int = 0
    most: int = 0

    def begin(self) -> int:
        self.most = self.use
        return self.use

    def peak(self) -> int:
        return self.most

    def hold(self, size: int) -> None:
        self.use += size
        self.most = max(self.most, self.use)


def test_each_trial_of_a_wave_reports_the_memory_of_its_own_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, begin_step, at_step = PlayedAllocator(use=10**12), Student.begin_step, iter(range(1, 5))

    def begin(student: Student, batch: Batch | None) -> None:
        size = next(at_step) * 10**9  # both students twice: 1, 2, then 3, 4
        device.hold(size)
        begin_step(student, batch)
        device.hold(-size)

    monkeypatch.setattr(Student, "begin_step", begin)
    monkeypatch.setattr(cohort_trainer, "device_allocator", lambda _: device)
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    channel, work = Channel(), Work(2, 2)
    train(tmp_path, channel, work)
    kept = {slot: report.costs.peak_memory_bytes for slot, report in last_reports(channel, work).items()}
    assert sorted(round((size or 0) / 10**9) for size in kept.values()) == [3, 4]


def test_on_a_cpu_a_trial_has_no_memory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    channel, work = Channel(), Work(1, 1)
    train(tmp_path, channel, work)
    [report] = last_reports(channel, work).values()
    assert report.costs.peak_memory_bytes is None
