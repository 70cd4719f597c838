"""What a training step does on a GPU: nothing waits, no devices are mixed, and memory, kernels and FLOPs stay in budget.

On a machine without a GPU the device is fake. The same tests run on a real one where there is one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from distill.data.sample import Sample
from distill.evaluation import evaluate
from distill.methods import list_methods
from distill.recipe import Recipe, SlidingWindow
from distill.testing.device_step import Case, WatchedTraining
from distill.testing.device_watch import Wait, Watch, real_cuda
from distill.testing.fake_cuda import CUDA, build_on_device, fake_cuda
from distill.testing.step_budget import BUDGETS, TOLERANCE, measured, read_budgets

Device = Callable[[], AbstractContextManager[Watch]]
CNN, TRANSFORMER = "deeplabv3-test_resnet", "segformer-test_vit"
REAL = pytest.param(real_cuda, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
SETTINGS: dict[str, dict[str, Any]] = {
    "cirkd": {"pixel_weight": 0.1, "region_weight": 0.1, "pixel_draws": 64, "region_draws": 32},
    "cwd": {"where": "features"},
}
"""Settings for the parts of a method that are off by default."""
MAY_WAIT_IN_EVALUATION = {
    "copy from cpu to cuda",
    "copy from cuda to cpu",
    "synchronizing operation",
}


@pytest.fixture(params=[pytest.param(fake_cuda, id="fake"), REAL])
def device(request: pytest.FixtureRequest) -> Device:
    found: Device = request.param
    return found


def recipe(**changes: Any) -> Recipe:
    plain = {"steps": 100, "batch_size": 2, "augmentation": {"crop": [64, 128]}, "lr": 0.01}
    return Recipe.model_validate({**plain, **changes})


def waits_of_a_step(device: Device, method: str, config: dict[str, Any], **changes: Any) -> list[Wait]:
    """The waits of a student's first step."""
    with device() as watch:
        training = WatchedTraining(Case(TRANSFORMER, CNN, recipe(**changes), method, config), watch)
        return [wait for part in training.step().values() for wait in part.waits]


def every_case() -> Iterator[Any]:
    """Every method with both precisions and both optimisers: one case each in CI."""
    for method in list_methods():
        for precision, optimizer in itertools.product(("fp32", "bf16"), ("sgd", "adamw")):
            in_ci = (precision, optimizer) == ("bf16", "adamw")
            yield pytest.param(method, precision, optimizer, marks=[] if in_ci else [pytest.mark.long])


@pytest.mark.parametrize(("method", "precision", "optimizer"), list(every_case()))
def test_no_part_of_a_step_waits_for_the_device(
    device: Device, method: str, precision: str, optimizer: str
) -> None:
    config = SETTINGS.get(method, {})
    assert waits_of_a_step(device, method, config, precision=precision, optimizer=optimizer) == []


@pytest.mark.parametrize(
    ("method", "config", "changes"),
    [
        ("kd", {}, {"ema_decay": 0.99, "clip_norm": 1.0}),
        ("kd+heteroakd", {}, {"accumulate": 2, "batch_size": 4, "channels_last": True, "precision": "bf16"}),
        ("cwd", {"balanced.cwd_weight": 1.0}, {"norm": "group"}),
    ],
    ids=["moving average and clipping", "micro-batches, channels last", "relative weight, group norm"],
)
def test_nor_does_a_step_with_other_settings_of_the_recipe(
    device: Device, method: str, config: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert waits_of_a_step(device, method, config, **changes) == []


class Pictures:
    """Two blank pictures of 64×96 pixels."""

    num_classes, ignore_index, name = 19, 255, "blank"

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        return Sample(np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96), np.uint8), str(index))


@pytest.mark.parametrize(
    "window", [None, SlidingWindow(size=(64, 64), stride=(32, 32))], ids=["whole", "windows"]
)
def test_an_evaluation_waits_only_to_fetch_pictures_and_counts(
    device: Device, window: SlidingWindow | None
) -> None:
    with device() as watch:
        model = build_on_device(CNN, 19)
        watch.mark()
        counts = evaluate(model, Pictures(), device=CUDA, batch_size=2, precision="bf16", window=window)  # type: ignore[arg-type]
        waits = {wait.why for wait in watch.mark().waits}
    assert counts.tp.shape == (2, 19)
    assert waits <= MAY_WAIT_IN_EVALUATION


@pytest.mark.long
@pytest.mark.parametrize("name", BUDGETS)
def test_a_full_size_step_stays_in_its_budget(name: str) -> None:
    """Peak, largest tensor, kernels and FLOPs are within 5 % of the file, which the module's command writes."""
    expected = read_budgets()[name]
    assert measured(BUDGETS[name]) == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.slow
def test_with_150_classes_no_map_at_image_resolution_is_larger_than_a_gibibyte() -> None:
    big = recipe(batch_size=16, augmentation={"crop": [512, 1024]}, precision="bf16")
    with fake_cuda() as watch:
        training = WatchedTraining(Case(TRANSFORMER, CNN, big, "kd", num_classes=150), watch)
        largest = training.step()["student"].largest[0]
    assert largest.size <= 2**30, largest


@pytest.fixture
def fake() -> Iterator[SimpleNamespace]:
    with fake_cuda() as watch:
        yield SimpleNamespace(watch=watch, x=torch.ones(8, device=CUDA))


WAITS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "a condition": lambda x: bool(x.sum() > 3),
    "a mask": lambda x: x[x > 0],
    "nonzero": lambda x: (x > 0).nonzero(),
    "a tensor of numbers": lambda x: torch.tensor([1.0, 2.0], device=CUDA),
    "a copy to the host": lambda x: x.cpu(),
    "a copy from the host": lambda x: torch.ones(8).to(CUDA),
    "bincount": lambda x: torch.bincount(x.long(), minlength=4),
}


@pytest.mark.parametrize("name", WAITS)
def test_the_watch_sees_a_wait(fake: SimpleNamespace, name: str) -> None:
    fake.watch.mark()
    WAITS[name](fake.x)
    assert sum(fake.watch.mark().waits.values()) == 1


@pytest.mark.parametrize(
    "work",
    [lambda x: torch.ones(8).to(CUDA, non_blocking=True), lambda x: torch.where(x > 0, x, 0.0)],
    ids=["a copy that does not block", "a number in where"],
)
def test_the_watch_sees_no_wait_where_there_is_none(
    fake: SimpleNamespace, work: Callable[[torch.Tensor], object]
) -> None:
    fake.watch.mark()
    work(fake.x)
    assert not fake.watch.mark().waits


def test_tensors_of_two_devices_cannot_be_added(fake: SimpleNamespace) -> None:
    with pytest.raises(RuntimeError, match="device"):
        fake.x + torch.ones(8)


def test_the_watch_counts_memory_flops_and_the_line_that_waited(fake: SimpleNamespace) -> None:
    fake.watch.mark()
    base = fake.watch.live
    square = torch.ones(1024, 1024, device=CUDA)
    product = square @ square
    assert fake.watch.live - base == 2 * 4 * 2**20
    del product
    seen = fake.watch.mark()
    assert (seen.peak - base, fake.watch.live - base) == (2 * 4 * 2**20, 4 * 2**20)
    assert seen.flops == {"float32": 2 * 1024**3}
    assert seen.largest[0].size == 4 * 2**20


def test_a_wait_in_a_loss_is_found_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.methods.kd.soften", lambda logits, temperature: logits / logits.sum().item())
    waits = waits_of_a_step(fake_cuda, "kd", {})
    assert any(wait.why == "_local_scalar_dense" and "kd.py" in wait.where for wait in waits)
