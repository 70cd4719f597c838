"""Endless batches of random views. Batch s is a pure function of data set, augmentation, size, seed and s."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from distill.data.augment import Augmentation
from distill.data.config import AugmentationConfig
from distill.data.dataset import SegmentationDataset
from distill.data.randomness import permutation
from distill.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class HostBatch:
    """One rank's share of a global batch, in host memory.

    Attributes:
        images_b3hw: RGB, uint8.
        labels_bhw: classes, int64, 255 where ignored.
        index: which picture of the data set each view shows, int64.
        step: which global batch this is a share of.
    """

    images_b3hw: Tensor
    labels_bhw: Tensor
    index: Tensor
    step: int


def normalise(images_b3hw: Tensor) -> Tensor:
    """RGB bytes as the float32 input of ImageNet-trained networks, on the device they are on."""
    mean = torch.tensor(IMAGENET_MEAN, device=images_b3hw.device).view(3, 1, 1)
    deviation = torch.tensor(IMAGENET_STD, device=images_b3hw.device).view(3, 1, 1)
    return (images_b3hw.float() / 255 - mean) / deviation


class _Views(torch.utils.data.Dataset[tuple[NDArray[np.uint8], NDArray[np.uint8], int]]):
    """Sample number → view. Every epoch shows each picture once, in an order of its own."""

    def __init__(self, dataset: SegmentationDataset, augmentation: AugmentationConfig, seed: int) -> None:
        self.dataset = dataset
        self.augmentation = augmentation
        self.seed = seed
        self._order = functools.lru_cache(maxsize=2)(self._epoch_order)
        self._views = Augmentation(augmentation, seed)

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        return permutation(self.seed, "epochs", epoch, len(self.dataset))

    def __getitem__(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], int]:
        epoch, place = divmod(number, len(self.dataset))
        picture = int(self._order(epoch)[place])
        sample = self.dataset[picture]
        image, labels = self._views(sample.image_hw3, sample.labels_hw, number)
        return image, labels, picture

    def __reduce__(self) -> tuple[object, ...]:
        return _Views, (self.dataset, self.augmentation, self.seed)


def _collate(
    views: list[tuple[NDArray[np.uint8], NDArray[np.uint8], int]],
) -> tuple[Tensor, Tensor, Tensor]:
    images = np.stack([image.transpose(2, 0, 1) for image, _, _ in views])
    labels = np.stack([labels for _, labels, _ in views])
    return torch.from_numpy(images), torch.from_numpy(labels), torch.tensor([p for _, _, p in views])


def _numbers(batch_size: int, start_step: int, rank: int, world_size: int) -> Iterator[list[int]]:
    share = batch_size // world_size
    first = start_step * batch_size + rank * share
    while True:
        yield list(range(first, first + share))
        first += batch_size


def _prepare_worker(worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)


def stream(
    dataset: SegmentationDataset,
    augmentation: AugmentationConfig,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    loader_workers: int = 0,
) -> Iterator[HostBatch]:
    """Batches from `start_step` on, without end.

    Epochs follow each other without a gap: a batch may hold the end of one and the start of the next.

    Args:
        dataset: the pictures.
        augmentation: how views are drawn from them.
        batch_size: of the global batch, over all ranks.
        seed: of order and views; no global random state is read or changed.
        start_step: the first batch to yield; the same as if the batches before it had been drawn.
        rank: which contiguous share of each global batch to yield.
        world_size: number of shares.
        loader_workers: processes that prepare batches; 0 prepares them here.

    Raises:
        UsageError: the batch cannot be shared equally, or the data set is empty.
    """
    if batch_size < 1 or batch_size % world_size:
        raise UsageError(
            f"batch_size is {batch_size}, must be a positive multiple of the number of workers, {world_size}"
        )
    if not 0 <= rank < world_size:
        raise UsageError(f"rank is {rank}, must be from 0 to {world_size - 1}")
    if not len(dataset):
        raise UsageError(f"data set '{dataset.name}' has no pictures in this split, must have at least one")
    views = _Views(dataset, augmentation, seed)
    numbers = _numbers(batch_size, start_step, rank, world_size)
    return _batches(views, numbers, start_step, loader_workers)


def _batches(
    views: _Views, numbers: Iterator[list[int]], start_step: int, loader_workers: int
) -> Iterator[HostBatch]:
    if loader_workers:
        # forkserver: a fork of a process that holds threads (Ray, CUDA, OpenCV) may hang. The server imports
        # torch and albumentations once, so each further worker starts at once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        loader = DataLoader(
            views,
            batch_sampler=numbers,
            num_workers=loader_workers,
            collate_fn=_collate,
            worker_init_fn=_prepare_worker,
            multiprocessing_context=context,
            generator=torch.Generator(),  # else the loader draws its base seed from the global state
        )
        shares: Iterator[tuple[Tensor, Tensor, Tensor]] = iter(loader)
    else:
        shares = (_collate([views[number] for number in share]) for share in numbers)
    for step, (images, labels, index) in enumerate(shares, start_step):
        yield HostBatch(images, labels.long(), index, step)
