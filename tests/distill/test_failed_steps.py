"""What a step that fails leaves behind, on a device of limited memory that is played on the CPU."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distill.models import Output, SegmentationModel, build_model
from distill.moving_average import MovingAverage
from distill.recipe import Recipe
from distill.training import Batch, Student, StudentSpec

CPU = torch.device("cpu")
MIB = 2**20


@dataclass
class LimitedDevice:
    """Maps of forward passes count for as long as they are held; beyond the limit a pass runs out of memory."""

    limit: int = 3 * MIB
    storages: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = field(default_factory=dict)

    def held(self) -> int:
        return sum(size for reference, size in self.storages.values() if reference() is not None)

    def hold(self, output: Output) -> None:
        for maps in (*output.stages, output.fused, output.logits):
            storage = maps.untyped_storage()
            self.storages[id(storage)] = (weakref.ref(storage), storage.nbytes())
        if self.held() > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> LimitedDevice:
    limited = LimitedDevice()
    forward = SegmentationModel.forward

    def counted(self: SegmentationModel, images: torch.Tensor) -> Output:
        output = forward(self, images)
        limited.hold(output)
        return output

    monkeypatch.setattr(SegmentationModel, "forward", counted)
    return limited


def student(width: int = 32, **changes: object) -> Student:
    recipe = Recipe.model_validate(
        {"steps": 10, "batch_size": 4, "augmentation": {"crop": [64, 64]}, "lr": 0.01, **changes}
    )
    spec = StudentSpec("deeplabv3-test_resnet", {"head_channels": width}, "student", {}, recipe, 0, 5)
    return Student(spec, None, device=CPU)


def batch() -> Batch:
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (4, 128, 128))
    return Batch(torch.randn(4, 3, 128, 128), labels, torch.arange(4), None)


def weights(one: Student) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in one.model.state_dict().values()]


def test_a_student_that_runs_out_of_memory_takes_none_of_its_neighbours_with_it(
    device: LimitedDevice,
) -> None:
    given = batch()
    alone = student()
    alone.train_step(given)
    large, *small = student(512), *(student() for _ in range(3))
    for one in (large, *small):
        one.train_step(given)
        assert device.held() == 0
    with pytest.raises(torch.OutOfMemoryError):
        large.check()
    for one in small:
        one.check()
        assert all(map(torch.equal, weights(one), weights(alone)))


def test_nothing_of_a_failed_step_stays_in_memory_and_its_error_still_names_the_line(
    device: LimitedDevice,
) -> None:
    device.limit = 0
    failed = student()
    given = batch()
    pictures = weakref.ref(given.images)
    failed.train_step(given)
    del given
    failed.begin_step(None)  # it still takes part in the reduction
    failed.end_step()
    gc.collect()
    assert pictures() is None
    assert device.held() == 0
    with pytest.raises(torch.OutOfMemoryError) as raised:
        failed.check()
    assert "in _backward" in raised.value.__notes__[0]
    assert failed.failed_at == 0


def test_a_fault_of_the_device_is_no_failure_of_the_student_that_met_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def faults(self: SegmentationModel, images: torch.Tensor) -> Output:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    one = student()
    monkeypatch.setattr(SegmentationModel, "forward", faults)
    with pytest.raises(torch.AcceleratorError, match="device-side assert"):
        one.train_step(batch())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_optimisers_state_is_allocated_before_the_first_step_which_stays_the_same_to_the_bit(
    optimizer: str,
) -> None:
    one, plain = student(optimizer=optimizer), student(optimizer=optimizer)
    held = {id(value) for state in one.optimizer.state.values() for value in state.values()}
    plain.optimizer.state.clear()  # as torch makes one
    for _ in range(3):
        one.train_step(batch())
        plain.train_step(batch())
    assert len(held) >= len(list(one.model.parameters()))
    assert {id(value) for state in one.optimizer.state.values() for value in state.values()} == held
    assert all(map(torch.equal, weights(one), weights(plain)))


def test_the_moving_average_is_that_of_torch_to_the_bit_and_reads_its_state() -> None:
    torch.manual_seed(0)
    model = build_model("deeplabv3-test_resnet", 3).train()
    ours = MovingAverage(model, 0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for step in range(5):
        model(torch.randn(2, 3, 64, 64)).logits.mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad if parameter.grad is not None else 0.0
        ours.update()
        theirs.update_parameters(model)
        if step == 2:  # as in a checkpoint of an earlier version
            restored = MovingAverage(model, 0.9)
            restored.load_state_dict(theirs.state_dict())
        if step > 2:
            restored.update()
    expected = theirs.state_dict()
    for found in (ours.state_dict(), restored.state_dict()):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert "num_batches" in name or torch.equal(found[name], tensor), name
