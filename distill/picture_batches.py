"""Whole pictures for an evaluation, decoded ahead by threads, in batches of pictures of one size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from distill.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from distill.data.sample import Sample, SegmentationDataset

Item = TypeVar("Item")
Result = TypeVar("Result")


class PictureBatch(NamedTuple):
    """Pictures of one size, in host memory.

    Attributes:
        indices: index of each picture in the data set.
        images_bhw3: RGB, uint8.
        labels_bhw: classes, uint8.
    """

    indices: list[int]
    images_bhw3: Tensor
    labels_bhw: Tensor


def picture_batches(
    dataset: SegmentationDataset, indices: Iterable[int], batch_size: int, threads: int, *, pinned: bool
) -> Generator[PictureBatch]:
    """Batches of pictures of the same size, in an order that depends only on the data set.

    Threads decode the next batch while the caller works on one. Decoders release Python's lock, so threads are enough,
    and no process has to be started for an evaluation.

    Args:
        dataset: the data set.
        indices: the pictures.
        batch_size: maximum number of pictures in a batch.
        threads: threads that decode.
        pinned: put batches into memory that a GPU copies from without a wait.

    Raises:
        UsageError: while iterating: a picture cannot be read, or has a label that is no class.
    """

    def read(index: int) -> tuple[int, Sample]:
        sample = dataset[index]
        _check_labels(sample, dataset)
        return index, sample

    def collate(batch: list[tuple[int, Sample]]) -> PictureBatch:
        import torch

        images, labels = (
            torch.from_numpy(np.stack(arrays))
            for arrays in zip(*((sample.image_hw3, sample.labels_hw) for _, sample in batch), strict=True)
        )
        numbers = [index for index, _ in batch]
        if pinned:
            return PictureBatch(numbers, images.pin_memory(), labels.pin_memory())
        return PictureBatch(numbers, images, labels)

    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="pictures")
    try:
        samples = _ahead(pool, read, indices, batch_size + threads)
        yield from _ahead(pool, collate, _of_one_size(samples, batch_size), 1)
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[Result]:
    """Results in the order of the items, of which up to `count` are worked on ahead."""
    running: deque[Future[Result]] = deque()
    for item in items:
        running.append(pool.submit(work, item))
        if len(running) > count:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _of_one_size(
    samples: Iterable[tuple[int, Sample]], batch_size: int
) -> Iterator[list[tuple[int, Sample]]]:
    waiting: dict[tuple[int, ...], list[tuple[int, Sample]]] = {}
    for index, sample in samples:
        batch = waiting.setdefault(sample.image_hw3.shape, [])
        batch.append((index, sample))
        if len(batch) == batch_size:
            yield waiting.pop(sample.image_hw3.shape)
    yield from waiting.values()


def _check_labels(sample: Sample, dataset: SegmentationDataset) -> None:
    valid = sample.labels_hw[sample.labels_hw != dataset.ignore_index]
    if valid.size and int(valid.max()) >= dataset.num_classes:
        raise UsageError(
            f"label {int(valid.max())} in picture '{sample.key}' of data set '{dataset.name}', "
            f"must be from 0 to {dataset.num_classes - 1} or {dataset.ignore_index} (ignored)"
        )
