"""Evaluates segmentation models by integer counts: tp, fp and fn per image and class.

The module does not import torch; `evaluate` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distill.device_errors import is_device_fault, release_frames
from distill.errors import UsageError
from distill.evaluation_mode import evaluating
from distill.picture_batches import PictureBatch, picture_batches
from distill.precision import Precision, autocast

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill.data.sample import SegmentationDataset
    from distill.models.output import Output
    from distill.recipe import SlidingWindow

_LARGEST_LOGITS = 2**24
"""Logits of all pixels that exist at a time: 64 MiB in float32."""


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
        miou: mean IoU over the classes that occur in the labels.
        miou_all_classes: mean IoU over all K classes, with 0 for the others.
        pixel_accuracy: share of valid pixels that are predicted correctly.
        class_iou: IoU per class, nan for a class that no label has.
    """

    miou: float
    miou_all_classes: float
    pixel_accuracy: float
    class_iou: tuple[float, ...]


def iou_from_counts(
    tp: NDArray[np.int64], fp: NDArray[np.int64], fn: NDArray[np.int64]
) -> NDArray[np.float64]:
    """IoU per class, `tp / (tp + fp + fn)`; nan if no label has the class.

    So the scored classes depend on the labels alone, and all models are averaged over the same ones. A pixel predicted
    as a class that no label has is still an error of its own class. The last axis is the class; counts are summed over
    all other axes.
    """
    hit, wrong, missed = (
        np.asarray(part).reshape(-1, np.shape(part)[-1]).sum(axis=0) for part in (tp, fp, fn)
    )
    labelled = hit + missed
    return np.where(labelled > 0, hit / np.maximum(labelled + wrong, 1), np.nan)


def miou(tp: NDArray[np.int64], fp: NDArray[np.int64], fn: NDArray[np.int64]) -> float:
    """Mean IoU over the classes that occur in the labels, from 0 to 1; nan if there is none."""
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
) -> Counts:
    """Evaluate one model on this rank's pictures; see `Evaluation`.

    Raises:
        UsageError: the model's or the labels' classes do not match the data set's.
    """
    evaluation = Evaluation(
        [model], dataset, device=device, batch_size=batch_size, rank=rank, world_size=world_size,
        precision=precision, window=window,
    )  # fmt: skip
    with contextlib.closing(evaluation):
        while evaluation.advance():
            pass
        [found] = evaluation.counts()
    if isinstance(found, Exception):
        raise found
    return found


class Evaluation:
    """An evaluation of several models on this rank's pictures at a single scale, whole or in sliding windows.

    Each picture is decoded once for all models, in threads that work ahead. Each rank evaluates a contiguous share of the
    pictures. Logits are resized bilinearly to the label's size. Modules run in eval mode; their modes and the random states
    are restored after each call. The error of one model ends its evaluation and not that of the others.

    Args:
        models: each maps normalised images `B×3×H×W` to an `Output` with logits `B×K×h×w`.
        dataset: pictures of any sizes; a batch has pictures of one size.
        device: device of models and counts.
        batch_size: maximum number of pictures in a batch.
        rank: rank whose share is evaluated.
        world_size: number of shares; `merge_counts` merges their counts.
        precision: precision of the forward pass; the rest runs in float32.
        window: sliding windows whose logits are averaged; None evaluates whole pictures.
        threads: threads that decode.
        before_model: called with a model's number before its part of a batch, for instance as a heartbeat.
    """

    def __init__(
        self,
        models: Sequence[Callable[[Tensor], Output]],
        dataset: SegmentationDataset,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 16,
        rank: int = 0,
        world_size: int = 1,
        precision: Precision = "fp32",
        window: SlidingWindow | None = None,
        threads: int = 1,
        before_model: Callable[[int], None] = lambda number: None,
    ) -> None:
        import torch

        self._models = list(models)
        self._dataset = dataset
        self._device = torch.device(device)
        self._precision = precision
        self._window = window
        self._before_model = before_model
        self._indices: list[int] = []
        self._rows: list[list[Tensor]] = [[] for _ in models]
        self._failures: list[Exception | None] = [None] * len(self._models)
        first, last = (len(dataset) * r // world_size for r in (rank, rank + 1))
        pinned = self._device.type == "cuda"
        self._batches = picture_batches(dataset, range(first, last), batch_size, threads, pinned=pinned)
        self._next = next(self._batches, None)

    @property
    def is_done(self) -> bool:
        """Whether no pictures are left."""
        return self._next is None

    def advance(self) -> bool:
        """Evaluate one batch of pictures with every model; returns whether pictures are left.

        Raises:
            UsageError: a model's or the labels' classes do not match the data set's, or a picture cannot be read.
            Exception: the device is of no more use.
        """
        import torch

        batch = self._next
        if batch is None:
            return False
        self._indices += batch.indices
        with (
            evaluating(self._models, self._device),
            torch.inference_mode(),
            autocast(self._device, self._precision),
        ):
            for number, model in enumerate(self._models):
                if self._failures[number] is None:
                    self._before_model(number)
                    try:
                        self._rows[number].append(self._count(model, batch))
                    except UsageError:
                        raise
                    except Exception as error:
                        self._fail(number, error)
        self._next = next(self._batches, None)
        return self._next is not None

    def counts(self) -> list[Counts | Exception]:
        """Of each model, its counts or its error. Waits for the device."""
        return [self._counts_of(number) for number in range(len(self._models))]

    def close(self) -> None:
        """End the threads."""
        self._batches.close()

    def _fail(self, number: int, error: Exception) -> None:
        from distill.device_memory import free_memory

        if is_device_fault(error):
            raise error
        release_frames(error)
        self._failures[number] = error
        self._rows[number].clear()
        free_memory(self._device)

    def _counts_of(self, number: int) -> Counts | Exception:
        import torch

        failure = self._failures[number]
        if failure is not None:
            return failure
        if not self._rows[number]:
            empty = np.zeros((0, self._dataset.num_classes), np.int64)
            return Counts(np.zeros(0, np.int64), empty, empty, empty)
        counted = torch.cat(self._rows[number]).cpu().numpy()
        order = np.argsort(self._indices)
        tp, fp, fn = (np.ascontiguousarray(counted[order, part]) for part in range(3))
        return Counts(np.asarray(self._indices, np.int64)[order], tp, fp, fn)

    def _count(self, model: Callable[[Tensor], Output], batch: PictureBatch) -> Tensor:
        """tp, fp and fn of one batch, `B×3×K`, on the device."""
        import torch

        from distill.normalisation import normalise

        classes = self._dataset.num_classes
        images, labels = (
            part.to(self._device, non_blocking=True) for part in (batch.images_bhw3, batch.labels_bhw)
        )
        images_b3hw = normalise(images.permute(0, 3, 1, 2))

        def logits_of(pieces: Tensor) -> Tensor:
            logits: Tensor = model(pieces).logits
            if logits.shape[1] != classes:
                raise UsageError(
                    f"the model predicts {logits.shape[1]} classes, data set '{self._dataset.name}' has {classes}; "
                    f"build the model with num_classes={classes}"
                )
            return logits

        confusion_blp = confusion_matrices(
            labels, predicted_classes(logits_of, images_b3hw, self._window), classes
        )
        tp = confusion_blp.diagonal(dim1=1, dim2=2)
        return torch.stack([tp, confusion_blp.sum(1) - tp, confusion_blp.sum(2) - tp], dim=1)


def predicted_classes(
    logits_of: Callable[[Tensor], Tensor], images_b3hw: Tensor, window: SlidingWindow | None
) -> Tensor:
    """The class of every pixel, int64 `B×H×W`: the largest of its logits, of equal ones the first.

    Logits of every pixel exist for a few pictures, or for a few classes of one picture, at a time: their memory does not
    grow with classes × pixels × pictures.

    Args:
        logits_of: maps images `B×3×H×W` to logits `B×K×h×w`, which are resized bilinearly to the images' size.
        images_b3hw: images for `logits_of`.
        window: sliding windows, whose logits are summed where they overlap; None uses whole images.
    """
    import torch

    height, width = images_b3hw.shape[-2:]
    size = (height, width) if window is None else window.size
    starts = [(0, 0)] if window is None else list(window.starts(height, width))
    places = [(..., slice(top, top + size[0]), slice(left, left + size[1])) for top, left in starts]
    pieces = [logits_of(images_b3hw[place]) for place in places]
    pictures, classes = pieces[0].shape[:2]
    together = max(1, _LARGEST_LOGITS // (classes * height * width))
    at_once = classes if together > 1 else max(1, _LARGEST_LOGITS // (height * width))

    def logits(rows: slice, channels: slice) -> Tensor:
        found = [
            resized_logits(piece[rows, channels], images_b3hw[place])
            for piece, place in zip(pieces, places, strict=True)
        ]
        if window is None:
            return found[0]
        total = found[0].new_zeros(*found[0].shape[:2], height, width)
        for place, piece in zip(places, found, strict=True):
            total[place] += piece
        return total

    predicted = []
    for row in range(0, pictures, together):
        rows = slice(row, row + together)
        best = logits(rows, slice(0, at_once)).max(1)  # on a CPU nine times faster than argmax
        values, indices = best.values, best.indices
        for channel in range(at_once, classes, at_once):
            other = logits(rows, slice(channel, channel + at_once)).max(1)
            pair = torch.stack([values, other.values]).max(0)
            values, indices = pair.values, torch.where(pair.indices == 0, indices, other.indices + channel)
        predicted.append(indices)
    return torch.cat(predicted)


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
    # On a CPU `bincount` is faster. It reads the largest cell on the host, so on a GPU it would wait.
    count = torch.bincount if cell.device.type == "cpu" else counted_without_waiting
    counts = count(cell.flatten(), minlength=pictures * size)
    return counts.view(pictures, num_classes + 1, num_classes)[:, :num_classes]


def counted_without_waiting(cells: Tensor, minlength: int) -> Tensor:
    """The number of occurrences of each value below `minlength`, int64, as `torch.bincount` if all values are below it."""
    import torch

    counts = cells.new_zeros(minlength, dtype=torch.int64)
    return counts.scatter_add_(0, cells.long(), counts.new_ones(1).expand(len(cells)))


def resized_logits(logits: Tensor, like: Tensor) -> Tensor:
    """Float32 logits, resized bilinearly to the height and width of another tensor."""
    import torch
    from torch.nn.functional import interpolate

    with torch.autocast(logits.device.type, enabled=False):
        return interpolate(logits.float(), like.shape[-2:], mode="bilinear", align_corners=False)
