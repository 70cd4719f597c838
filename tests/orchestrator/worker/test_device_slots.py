"""Students that share a device of limited memory: which of them train together, and which fail."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.models import Output, build_model
from distill.recipe import Recipe
from orchestrator.worker.device_slots import DeviceSlots
from orchestrator.worker.student_slot import LoadedTeacher, StudentSlot
from orchestrator.worker.teacher_forward import TeacherForward
from tests.orchestrator.worker.alone import alone_worker

STOP = 3


@dataclass
class Device:
    """Students of given sizes on a device with room for `room`; a step of one needs `step` more."""

    sizes: list[int]
    room: int
    step: int = 0
    failed: list[str] = field(default_factory=list)
    company: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        workers = alone_worker()
        workers.free_memory = lambda: None  # type: ignore[method-assign]  # hundreds of collections take minutes
        self.slots = DeviceSlots(workers, None, self.build, self.fail)
        recipe = Recipe.model_validate({"steps": 9, "batch_size": 4, "augmentation": {"crop": 32}, "lr": 0.1})
        for number in range(len(self.sizes)):
            trial: Any = SimpleNamespace(trial_id=str(number), recipe=recipe)
            self.slots.slots.append(StudentSlot(trial))

    def used(self) -> int:
        return sum(self.sizes[int(s.trial.trial_id)] for s in self.slots.slots if s.student is not None)

    def build(self, slot: StudentSlot) -> None:
        if self.used() + self.sizes[int(slot.trial.trial_id)] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        model: Any = None
        slot.student = LoadedTeacher(model)

    def fail(self, slot: StudentSlot, error: Exception) -> None:
        self.failed.append(slot.trial.trial_id)
        slot.release()
        self.slots.slots.remove(slot)

    def train(self) -> None:
        """As the cohort trainer does, with one round up to `STOP`."""
        while group := self.slots.next_group(STOP):
            loaded = self.slots.load(group)
            neighbours = self.slots.on_device - 1
            self.company.append([slot.trial.trial_id for slot in loaded])
            short = self.used() + self.step > self.room
            for slot in loaded:
                if not short:
                    slot.step = STOP
                elif self.slots.can_retry(slot, neighbours):
                    self.slots.retry(slot, neighbours, None)
                else:
                    self.fail(slot, torch.OutOfMemoryError("CUDA out of memory."))


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    room=st.integers(1, 30),
    step=st.integers(0, 5),
)
@settings(max_examples=20, deadline=None)
def test_only_a_student_that_does_not_fit_alone_fails(sizes: list[int], room: int, step: int) -> None:
    device = Device(sizes, room, step)
    device.train()
    assert sorted(device.failed) == [str(n) for n, size in enumerate(sizes) if size + step > room]
    assert all(slot.step == STOP for slot in device.slots.slots)


def test_fewer_go_on_together_before_anyone_trains_alone() -> None:
    device = Device([1] * 8, room=8, step=4)
    device.train()
    assert [len(group) for group in device.company] == [8, 4, 4]
    assert {slot.remark for slot in device.slots.slots} == {
        "ran out of memory by step 0 beside 7 others; trained anew beside at most 3"
    }


def test_a_student_that_is_too_large_beside_others_does_not_keep_them_apart() -> None:
    device = Device([1, 1, 1, 1], room=4)
    large = device.slots.slots[0]
    device.slots.retry(large, 3, None)
    device.slots.retry(large, 1, None)
    device.train()
    assert [sorted(group) for group in device.company] == [["1", "2", "3"], ["0"]]


def test_a_student_without_memory_goes_on_from_its_checkpoint_and_in_halved_batches_from_step_0() -> None:
    device = Device([1], room=1)
    [slot] = device.slots.slots
    slot.step = 7
    saved = {"accumulate": 1, "step": 5, "student": {"weights": 1}, "averaged_at": None}
    device.slots.retry(slot, 1, saved)
    assert (slot.step, slot.host_state) == (5, {"weights": 1})
    assert slot.remark == "ran out of memory by step 7 beside 1 others; trained from step 5 by itself"
    device.slots.retry(slot, 0, saved)
    assert (slot.step, slot.host_state, slot.accumulate) == (0, None, 2)
    slot.rewind(saved)  # which was not trained in halved batches
    assert slot.step == 0


def test_a_teacher_pass_without_room_for_the_batch_is_tried_in_parts_where_that_is_allowed() -> None:
    torch.manual_seed(0)
    network = build_model("segformer-test_vit", 4).eval()
    passes: list[int] = []
    forward = type(network).forward

    def short(images: torch.Tensor) -> Output:
        passes.append(len(images))
        if len(images) > 1:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return forward(network, images)

    images = torch.randn(4, 3, 32, 32)
    needs = {"teacher", "logits", "stages"}
    with torch.no_grad():
        expected = network(images).maps(needs)
    teacher = TeacherForward.__new__(TeacherForward)
    teacher._model, teacher._precision, teacher._layout = network, "fp32", torch.contiguous_format
    teacher._cache = None
    teacher.divide(False)
    network.forward = short  # type: ignore[method-assign]
    host: Any = None
    with pytest.raises(RuntimeError, match="ALLOC_FAILED"):
        teacher.maps(host, images, needs)
    teacher.divide(True)
    passes.clear()
    found = teacher.maps(host, images, needs)
    assert passes == [4, 2, 1, 1, 1, 1]
    for part, maps in expected.items():
        for one, other in zip(found[part], maps, strict=True):
            torch.testing.assert_close(one, other)
