"""One evaluation of several models: one decode per picture, errors that stay a model's own, and bounded memory."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distill import evaluation
from distill.data import Sample
from distill.evaluation import Counts, Evaluation, evaluate, predicted_classes
from distill.models.output import Output
from distill.recipe import SlidingWindow
from tests.distill.test_evaluation import Net, Pictures, pictures

WINDOW = SlidingWindow(size=(16, 24), stride=(8, 16))


class Reads(Pictures):
    """Counts how often each picture is decoded."""

    def __init__(self, samples: list[Sample]) -> None:
        super().__init__(samples)
        self.reads: Counter[int] = Counter()

    def __getitem__(self, index: int) -> Sample:
        self.reads[index] += 1
        return super().__getitem__(index)


def counted(evaluation: Evaluation) -> list[Counts | Exception]:
    while evaluation.advance():
        pass
    evaluation.close()
    return evaluation.counts()


def equal(one: Counts | Exception, other: Counts | Exception) -> bool:
    return isinstance(one, Counts) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("image_index", "tp", "fp", "fn")
    )


def test_several_models_have_the_counts_of_each_alone_and_every_picture_is_decoded_once() -> None:
    torch.manual_seed(0)
    nets = [Net() for _ in range(3)]
    data = Reads(pictures([(32, 32), (24, 40)] * 4).samples)
    found = counted(Evaluation(nets, data, batch_size=3, threads=2))
    assert data.reads == dict.fromkeys(range(8), 1)
    for net, counts in zip(nets, found, strict=True):
        assert equal(counts, evaluate(net, data, batch_size=3))


def test_a_model_that_runs_out_of_memory_ends_alone_and_leaves_nothing() -> None:
    class Short(Net):
        def forward(self, images: Tensor) -> Output:
            output = super().forward(images)
            held.append(weakref.ref(output.logits))
            if len(held) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return output

    held: list[weakref.ref[Tensor]] = []
    torch.manual_seed(0)
    sound = Net()
    data = pictures([(32, 32)] * 6)
    failure, counts = counted(Evaluation([Short(), sound], data, batch_size=2))
    gc.collect()
    assert isinstance(failure, torch.OutOfMemoryError)
    assert [reference() for reference in held] == [None, None]
    assert equal(counts, evaluate(sound, data, batch_size=2))


def test_a_device_fault_ends_the_evaluation_of_all() -> None:
    def faults(images: Tensor) -> Output:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(torch.AcceleratorError):
        counted(Evaluation([faults, Net()], pictures([(32, 32)])))


class Logits(nn.Module):
    """Made logits, with ties and nan."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        source = torch.Generator().manual_seed(0)
        size = len(images), self.classes, images.shape[2] // 4, images.shape[3] // 4
        found = torch.randint(0, 4, size, generator=source, dtype=torch.float32)
        found[0, 2, :1, :1] = torch.nan
        return found


@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize("largest", [1, 3 * 32 * 48, 2 * 7 * 32 * 48])
def test_classes_are_the_same_however_little_is_resized_at_a_time(
    monkeypatch: pytest.MonkeyPatch, largest: int, window: SlidingWindow | None
) -> None:
    images = torch.zeros(3, 3, 32, 48)
    expected = predicted_classes(Logits(7), images, window)
    monkeypatch.setattr(evaluation, "_LARGEST_LOGITS", largest)
    assert torch.equal(predicted_classes(Logits(7), images, window), expected)


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that an operator returns."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize(("batch", "classes"), [(1, 19), (8, 19), (8, 150)])
def test_no_tensor_of_an_evaluation_grows_with_classes_times_pixels_times_pictures(
    monkeypatch: pytest.MonkeyPatch, batch: int, classes: int, window: SlidingWindow | None
) -> None:
    height, width = 32, 48
    monkeypatch.setattr(evaluation, "_LARGEST_LOGITS", 4 * height * width)
    images = torch.zeros(batch, 3, height, width)
    with Largest() as watch:
        predicted_classes(Logits(classes), images, window)
    own_logits = 4 * batch * classes * height * width // 16  # the model's: at stride 4
    class_map = 8 * batch * height * width
    assert watch.bytes <= max(
        4 * 4 * height * width, own_logits, class_map, images.untyped_storage().nbytes()
    )
