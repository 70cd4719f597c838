"""Evaluates segmentation models by integer counts: tp, fp and fn per image and class.

The module does not import torch; `evaluate` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from distill.errors import UsageError, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill.data.sample import Sample, SegmentationDataset
    from distill.models.output import Output
    from distill.recipe import SlidingWindow

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Counts:
    """Pixels counted per image and class.

    Attributes:
        image_index: index in the data set of each row's picture, ascending, `N`.
        tp: pixels of the class predicted as it, int64 `N×K`.
        fp: pixels of another class predicted as it.
        fn: pixels of the class predicted as another.
    """

    image_index: NDArray[np.int64]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]


@dataclass(frozen=True)
class TaskMetrics:
    """Scores of one evaluation, from 0 to 1.

    Attributes:
        miou: mean IoU over the classes that occur in labels or predictions.
        miou_all_classes: mean IoU over all K classes, with 0 for absent ones.
        pixel_accuracy: share of valid pixels that are predicted correctly.
        class_iou: IoU per class, nan for absent ones.
    """

    miou: float
    miou_all_classes: float
    pixel_accuracy: float
    class_iou: tuple[float, ...]


def iou_from_counts(
    tp: NDArray[np.int64], fp: NDArray[np.int64], fn: NDArray[np.int64]
) -> NDArray[np.float64]:
    """IoU per class, `tp / (tp + fp + fn)`; nan if the class is absent from labels and predictions.

    The last axis is the class; counts are summed over all other axes.
    """
    hit, wrong, missed = (
        np.asarray(part).reshape(-1, np.shape(part)[-1]).sum(axis=0) for part in (tp, fp, fn)
    )
    union = hit + wrong + missed
    return np.where(union > 0, hit / np.maximum(union, 1), np.nan)


def miou(tp: NDArray[np.int64], fp: NDArray[np.int64], fn: NDArray[np.int64]) -> float:
    """Mean IoU over the classes present in labels or predictions, from 0 to 1; nan if there is none."""
    iou = iou_from_counts(tp, fp, fn)
    present = iou[~np.isnan(iou)]
    return float(present.mean()) if len(present) else float("nan")


def task_metrics(counts: Counts) -> TaskMetrics:
    """Scores over all counted images together."""
    iou = iou_from_counts(counts.tp, counts.fp, counts.fn)
    pixels = int(counts.tp.sum() + counts.fn.sum())
    return TaskMetrics(
        miou=miou(counts.tp, counts.fp, counts.fn),
        miou_all_classes=float(np.nan_to_num(iou).mean()),
        pixel_accuracy=int(counts.tp.sum()) / pixels if pixels else float("nan"),
        class_iou=tuple(float(value) for value in iou),
    )


def merge_counts(parts: Iterable[Counts]) -> Counts:
    """Merge the counts of all ranks, in the order of the pictures.

    Raises:
        ValueError: a picture was counted twice.
    """
    shares = list(parts)
    index = np.concatenate([part.image_index for part in shares])
    order = np.argsort(index, kind="stable")
    index = index[order]
    if len(twice := index[1:][index[1:] == index[:-1]]):
        raise ValueError(f"picture {twice[0]} was counted by two ranks, must be counted once")
    tp, fp, fn = (
        np.concatenate([getattr(part, name) for part in shares])[order] for name in ("tp", "fp", "fn")
    )
    return Counts(index, tp, fp, fn)


def evaluate(
    model: Callable[[Tensor], Output],
    dataset: SegmentationDataset,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    rank: int = 0,
    world_size: int = 1,
    precision: Precision = "fp32",
    window: SlidingWindow | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> Counts:
    """Evaluate a model on this rank's pictures at a single scale, whole or in sliding windows.

    Each rank evaluates a contiguous share of the pictures. Logits are resized bilinearly to the label's size. A module
    runs in eval mode; its modes and the random states are restored afterwards.

    Args:
        model: maps normalised images `B×3×H×W` to an `Output` with logits `B×K×h×w`.
        dataset: pictures of any sizes; a batch has pictures of one size.
        device: device of model and counts.
        batch_size: maximum number of pictures in a batch.
        rank: rank whose share is evaluated.
        world_size: number of shares; `merge_counts` merges their counts.
        precision: precision of the forward pass; the rest runs in float32.
        window: sliding windows whose logits are averaged; None evaluates whole pictures.
        on_batch: called before each batch, for instance as a heartbeat.

    Raises:
        UsageError: the model's or the labels' classes do not match the data set's.
    """
    import torch

    first, last = (len(dataset) * r // world_size for r in (rank, rank + 1))
    indices: list[int] = []
    rows: list[Tensor] = []
    with _evaluating(model, torch.device(device)), torch.inference_mode(), _autocast(device, precision):
        for batch in _batches(dataset, range(first, last), batch_size):
            on_batch()
            indices += [index for index, _ in batch]
            samples = [sample for _, sample in batch]
            rows.append(_count(model, samples, dataset, torch.device(device), window))
    if not rows:
        empty = np.zeros((0, dataset.num_classes), np.int64)
        return Counts(np.zeros(0, np.int64), empty, empty, empty)
    counted = torch.cat(rows).cpu().numpy()
    order = np.argsort(indices)
    tp, fp, fn = (np.ascontiguousarray(counted[order, part]) for part in range(3))
    return Counts(np.asarray(indices, np.int64)[order], tp, fp, fn)


def _count(
    model: Callable[[Tensor], Output],
    samples: list[Sample],
    dataset: SegmentationDataset,
    device: torch.device,
    window: SlidingWindow | None,
) -> Tensor:
    """tp, fp and fn of one batch, `B×3×K`, on the device."""
    import torch

    from distill.data.stream import normalise

    classes = dataset.num_classes
    labels_host = np.stack([sample.labels_hw for sample in samples])
    for sample in samples:
        _check_labels(sample, dataset)
    images = torch.from_numpy(np.stack([sample.image_hw3 for sample in samples])).to(device)
    labels = torch.from_numpy(labels_host).to(device)
    images_b3hw = normalise(images.permute(0, 3, 1, 2))
    logits = pixel_logits(lambda pieces: model(pieces).logits, images_b3hw, window)
    if logits.shape[1] != classes:
        raise UsageError(
            f"the model predicts {logits.shape[1]} classes, data set '{dataset.name}' has {classes}; "
            f"build the model with num_classes={classes}"
        )
    predicted = logits.max(1).indices  # on a CPU nine times faster than argmax
    confusion_blp = confusion_matrices(labels, predicted, classes)
    tp = confusion_blp.diagonal(dim1=1, dim2=2)
    return torch.stack([tp, confusion_blp.sum(1) - tp, confusion_blp.sum(2) - tp], dim=1)


def pixel_logits(
    logits_of: Callable[[Tensor], Tensor], images_b3hw: Tensor, window: SlidingWindow | None
) -> Tensor:
    """Float32 logits of every pixel, `B×K×H×W`; the argmax is the predicted class.

    Args:
        logits_of: maps images `B×3×H×W` to logits `B×K×h×w`, which are resized bilinearly to the images' size.
        images_b3hw: images for `logits_of`.
        window: sliding windows, whose logits are summed where they overlap; None uses whole images.
    """
    if window is None:
        return resized_logits(logits_of(images_b3hw), images_b3hw)
    total: Tensor | None = None
    for top, left in window.starts(*images_b3hw.shape[-2:]):
        place = (..., slice(top, top + window.size[0]), slice(left, left + window.size[1]))
        piece = images_b3hw[place]
        logits = resized_logits(logits_of(piece), piece)
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], *images_b3hw.shape[-2:])
        total[place] += logits
    assert total is not None  # there is at least one window
    return total


def confusion_matrices(labels_bhw: Tensor, predicted_bhw: Tensor, num_classes: int) -> Tensor:
    """Confusion matrices, pixels by label and prediction, int64 `B×K×K`.

    Args:
        labels_bhw: classes, uint8; K and above is ignored.
        predicted_bhw: classes, int64, each below K.
        num_classes: K.
    """
    import torch

    size = (num_classes + 1) * num_classes  # with one row for the ignored pixels
    pictures = len(labels_bhw)
    # int32 is faster: memory traffic dominates.
    kind = torch.int32 if pictures * size < 2**31 else torch.int64
    cell = labels_bhw.clamp(max=num_classes).to(kind).mul_(num_classes).add_(predicted_bhw.to(kind))
    cell += torch.arange(pictures, device=cell.device, dtype=kind).view(-1, 1, 1) * size
    counts = torch.bincount(cell.flatten(), minlength=pictures * size)
    return counts.view(pictures, num_classes + 1, num_classes)[:, :num_classes]


def resized_logits(logits: Tensor, like: Tensor) -> Tensor:
    """Float32 logits, resized bilinearly to the height and width of another tensor."""
    import torch
    from torch.nn.functional import interpolate

    with torch.autocast(logits.device.type, enabled=False):
        return interpolate(logits.float(), like.shape[-2:], mode="bilinear", align_corners=False)


def _check_labels(sample: Sample, dataset: SegmentationDataset) -> None:
    valid = sample.labels_hw[sample.labels_hw != dataset.ignore_index]
    if valid.size and int(valid.max()) >= dataset.num_classes:
        raise UsageError(
            f"label {int(valid.max())} in picture '{sample.key}' of data set '{dataset.name}', "
            f"must be from 0 to {dataset.num_classes - 1} or {dataset.ignore_index} (ignored)"
        )


def _batches(
    dataset: SegmentationDataset, indices: Iterable[int], batch_size: int
) -> Iterator[list[tuple[int, Sample]]]:
    """Batches of pictures of the same size, in an order that depends only on the data set."""
    waiting: dict[tuple[int, ...], list[tuple[int, Sample]]] = {}
    for index in indices:
        sample = dataset[index]
        batch = waiting.setdefault(sample.image_hw3.shape, [])
        batch.append((index, sample))
        if len(batch) == batch_size:
            yield waiting.pop(sample.image_hw3.shape)
    yield from waiting.values()


@contextlib.contextmanager
def _evaluating(model: Callable[..., Any], device: torch.device) -> Iterator[None]:
    """Set eval mode; restore every submodule's mode and the random states afterwards."""
    import torch

    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    modes = [module.training for module in modules]
    # Pictures may have many sizes, and cuDNN would time its algorithms anew for each of them.
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for module in modules:
            module.training = False
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = benchmark
            for module, training in zip(modules, modes, strict=True):
                module.training = training


def _autocast(device: torch.device | str, precision: Precision) -> torch.autocast:
    import torch

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in kinds:
        raise unknown("precision", precision, kinds)
    return torch.autocast(torch.device(device).type, dtype=kinds[precision], enabled=precision != "fp32")
