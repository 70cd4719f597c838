"""Counts and scores: against torchmetrics, against a plain loop, and what evaluation leaves untouched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from distill.data import Sample
from distill.errors import UsageError
from distill.evaluation import (
    Counts,
    confusion_matrices,
    counted_without_waiting,
    evaluate,
    iou_from_counts,
    merge_counts,
    miou,
    task_metrics,
)
from distill.models.output import Output
from distill.recipe import SlidingWindow

CLASSES = 5


@dataclass
class Pictures:
    """A data set of given arrays."""

    samples: list[Sample]
    num_classes: int = CLASSES
    name: str = "pictures"
    ignore_index: int = 255

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(f"class {index}" for index in range(self.num_classes))

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        return ((0, 0, 0),) * self.num_classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


class Net(nn.Module):
    """Logits at stride 4, with what reacts to train mode and random states."""

    def __init__(self, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.Dropout(0.5))
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: Tensor) -> Output:
        features = self.body(images)
        return Output((features,) * 4, features, self.head(features))


def pictures(sizes: list[tuple[int, int]], classes: int = CLASSES, seed: int = 0) -> Pictures:
    source = np.random.default_rng(seed)
    samples = []
    for number, (height, width) in enumerate(sizes):
        labels = source.integers(0, classes, (height, width)).astype(np.uint8)
        labels[source.random((height, width)) < 0.1] = 255
        image = source.integers(0, 256, (height, width, 3)).astype(np.uint8)
        samples.append(Sample(image, labels, str(number)))
    return Pictures(samples)


def predictions(net: Net, sample: Sample) -> NDArray[np.int64]:
    """One picture alone: resize the logits to the label's size, then take the largest."""
    from distill.normalisation import normalise

    image = torch.from_numpy(sample.image_hw3).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = net.eval()(normalise(image)).logits
    logits = nn.functional.interpolate(logits, sample.labels_hw.shape, mode="bilinear", align_corners=False)
    return logits[0].argmax(0).numpy()


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_counts_are_those_of_a_plain_loop_for_pictures_of_any_size(net: Net) -> None:
    data = pictures([(32, 32), (24, 40), (32, 32), (20, 20), (32, 32), (24, 40)])
    counts = evaluate(net, data, batch_size=2)
    assert counts.image_index.tolist() == list(range(6))
    for row, sample in enumerate(data.samples):
        predicted, labels = predictions(net, sample), sample.labels_hw
        for label in range(CLASSES):
            valid = labels != 255
            hit, said = (labels == label) & (predicted == label), valid & (predicted == label)
            assert counts.tp[row, label] == hit.sum()
            assert counts.fp[row, label] == said.sum() - hit.sum()
            assert counts.fn[row, label] == (labels == label).sum() - hit.sum()


def test_iou_per_class_agrees_with_torchmetrics(net: Net) -> None:
    data = pictures([(32, 32)] * 5)
    oracle = MulticlassJaccardIndex(CLASSES, average=None, ignore_index=255)
    for sample in data.samples:
        oracle.update(
            torch.from_numpy(predictions(net, sample))[None], torch.from_numpy(sample.labels_hw)[None].long()
        )
    metrics = task_metrics(evaluate(net, data))
    np.testing.assert_allclose(metrics.class_iou, oracle.compute().numpy(), rtol=1e-6)
    assert metrics.miou == pytest.approx(float(oracle.compute().mean()))


@pytest.mark.parametrize(("size", "stride"), [((16, 24), (8, 16)), ((12, 12), (12, 5)), ((64, 64), (64, 64))])
def test_sliding_windows_average_the_logits_of_every_window_a_pixel_lies_in(
    net: Net, size: tuple[int, int], stride: tuple[int, int]
) -> None:
    from distill.normalisation import normalise

    data = pictures([(24, 40), (20, 28)])
    counts = evaluate(net, data, window=SlidingWindow(size=size, stride=stride))
    for row, sample in enumerate(data.samples):
        height, width = sample.labels_hw.shape
        tall, wide = min(size[0], height), min(size[1], width)
        tops = sorted({min(top, height - tall) for top in range(0, height, stride[0])})
        lefts = sorted({min(left, width - wide) for left in range(0, width, stride[1])})
        image = normalise(torch.from_numpy(sample.image_hw3).permute(2, 0, 1)[None])
        votes = torch.zeros(len(tops) * len(lefts), CLASSES, height, width).fill_(torch.nan)
        for vote, (top, left) in zip(votes, ((t, x) for t in tops for x in lefts), strict=True):
            with torch.no_grad():
                logits = net.eval()(image[..., top : top + tall, left : left + wide]).logits
            vote[:, top : top + tall, left : left + wide] = nn.functional.interpolate(
                logits, (tall, wide), mode="bilinear", align_corners=False
            )[0]
        predicted = votes.nanmean(0).argmax(0).numpy()
        for label in range(CLASSES):
            hits = ((predicted == label) & (sample.labels_hw == label)).sum()
            assert abs(int(counts.tp[row, label]) - int(hits)) <= 1
        assert counts.tp[row].sum() + counts.fn[row].sum() == (sample.labels_hw != 255).sum()


def test_windows_that_would_leave_pixels_out_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"stride is \(9, 9\), must be at most the size \(8, 8\)"):
        SlidingWindow.model_validate({"size": 8, "stride": 9})


def test_confusion_matrices_are_those_of_torchmetrics_one_per_picture() -> None:
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (3, 20, 30), generator=source, dtype=torch.uint8)
    labels[:, :4] = 255
    predicted = torch.randint(0, CLASSES, (3, 20, 30), generator=source)
    for row, matrix in enumerate(confusion_matrices(labels, predicted, CLASSES)):
        oracle = MulticlassConfusionMatrix(CLASSES, ignore_index=255)
        assert torch.equal(matrix, oracle(predicted[row], labels[row].long()))


def test_what_counts_on_a_gpu_counts_as_bincount_does() -> None:
    cells = torch.randint(0, 50, (4000,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    counts = counted_without_waiting(cells, minlength=60)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, torch.bincount(cells, minlength=60))


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_every_picture_is_counted_once_for_any_world_size(net: Net, world_size: int) -> None:
    data = pictures([(16, 16)] * 5)
    whole = evaluate(net, data, batch_size=2)
    shares = [evaluate(net, data, batch_size=2, rank=r, world_size=world_size) for r in range(world_size)]
    merged = merge_counts(reversed(shares))
    for name in ("image_index", "tp", "fp", "fn"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
    with pytest.raises(ValueError, match="counted by two ranks"):
        merge_counts([whole, shares[-1]])


def test_modes_of_all_submodules_and_the_random_state_are_as_before(net: Net) -> None:
    net.train()
    net.body[1].eval()
    modes = [module.training for module in net.modules()]
    torch.manual_seed(3)
    before, statistics = torch.get_rng_state(), net.body[1].running_mean.clone()

    def draws(images: Tensor) -> Output:
        torch.rand(3)
        return net(images)

    evaluate(net, pictures([(16, 16)] * 2))
    evaluate(draws, pictures([(16, 16)] * 2))
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(net.body[1].running_mean, statistics)


def test_modes_are_restored_when_the_model_fails(net: Net) -> None:
    net.train()
    with pytest.raises(UsageError):
        evaluate(net, pictures([(16, 16)], classes=7))
    assert all(module.training for module in net.modules())


def test_bf16_counts_as_many_pixels_and_nearly_the_same_hits(net: Net) -> None:
    data = pictures([(32, 32)] * 4)
    exact, rough = evaluate(net, data), evaluate(net, data, precision="bf16")
    assert (exact.tp + exact.fn == rough.tp + rough.fn).all()
    assert abs(int(exact.tp.sum()) - int(rough.tp.sum())) < 0.02 * 4 * 32 * 32


def test_a_class_that_no_label_has_is_left_out_of_the_mean_whatever_was_predicted() -> None:
    """Otherwise one stray pixel would average one model over more classes than another."""
    tp, fn = np.array([[6, 0, 0], [0, 0, 0]]), np.array([[0, 2, 0], [0, 0, 0]])
    for stray in ([[2, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 0, 1]]):
        iou = iou_from_counts(tp, np.array(stray), fn)
        np.testing.assert_array_equal(iou[1:], [0, np.nan])
        assert miou(tp, np.array(stray), fn) == iou[0] / 2
    fp = np.array([[2, 0, 0], [0, 0, 0]])
    metrics = task_metrics(Counts(np.arange(2), tp, fp, fn))
    assert metrics.miou_all_classes == 0.25
    assert metrics.pixel_accuracy == 0.75


def test_a_split_without_a_valid_pixel_has_no_score(net: Net) -> None:
    data = pictures([(16, 16)])
    data.samples[0].labels_hw[:] = 255
    metrics = task_metrics(evaluate(net, data))
    assert np.isnan(metrics.miou)
    assert np.isnan(metrics.pixel_accuracy)


@given(st.lists(st.tuples(*[st.integers(0, 50)] * 3), min_size=1, max_size=6))
def test_iou_is_a_share_and_undefined_exactly_where_nothing_is_labelled(
    rows: list[tuple[int, int, int]],
) -> None:
    tp, fp, fn = np.array(rows).T
    iou = iou_from_counts(tp, fp, fn)
    np.testing.assert_array_equal(np.isnan(iou), tp + fn == 0)
    assert ((iou >= 0) & (iou <= 1) | np.isnan(iou)).all()
    np.testing.assert_array_equal(
        iou, iou_from_counts(np.stack([tp, tp]), np.stack([fp, fp]), np.stack([fn, fn]))
    )


def test_a_label_that_is_no_class_is_refused_by_name(net: Net) -> None:
    with pytest.raises(UsageError, match=r"label 6 in picture '0' .* from 0 to 4 or 255"):
        evaluate(net, pictures([(16, 16)], classes=7))


def test_a_model_of_another_number_of_classes_is_refused() -> None:
    with pytest.raises(UsageError, match=r"predicts 4 classes, data set 'pictures' has 5.*num_classes=5"):
        evaluate(Net(4), pictures([(16, 16)]))


def test_an_unknown_precision_is_refused_with_the_known_ones(net: Net) -> None:
    with pytest.raises(UsageError, match="bf16"):
        evaluate(net, pictures([(16, 16)]), precision="bfloat16")  # type: ignore[arg-type]
