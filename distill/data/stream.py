"""Endless batches of random views, all new or a number that comes round.

Batch s is a pure function of data set, augmentation, size, seed and s.
"""

from __future__ import annotations

import functools
import itertools
import math
import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from distill.data.augment import Augmentation
from distill.data.config import AugmentationConfig
from distill.data.images import BrokenFileError
from distill.data.philox import permutation
from distill.data.sample import SegmentationDataset
from distill.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class HostBatch:
    """One rank's share of a global batch, in host memory.

    Attributes:
        images_b3hw: RGB, uint8, channels last in memory.
        labels_bhw: classes, uint8, 255 where ignored.
        index: which picture of the data set each view shows, int64.
        step: which global batch this is a share of.
    """

    images_b3hw: Tensor
    labels_bhw: Tensor
    index: Tensor
    step: int


def normalise(
    images_b3hw: Tensor,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Tensor:
    """RGB bytes as the float32 input of a network, by default one trained as on ImageNet, on the device they are on.

    Bytes cross the bus, in the order they were decoded in; the device reorders and scales them.
    """
    mean_311, deviation_311 = (_by_channel(values, images_b3hw.device) for values in (mean, std))
    return images_b3hw.contiguous().float().div_(255).sub_(mean_311).div_(deviation_311)


def _by_channel(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """Filled in on the device: for numbers sent there the host would wait until the device has done all its work."""
    return torch.cat([torch.full((1, 1, 1), value, device=device) for value in values])


class _View(NamedTuple):
    image_hw3: NDArray[np.uint8]
    labels_hw: NDArray[np.uint8]
    picture: int
    skipped: tuple[str, ...]
    """What is wrong with the pictures that should have been shown."""


class _Share(NamedTuple):
    images_bhw3: Tensor
    labels_bhw: Tensor
    pictures: Tensor
    skipped: tuple[str, ...]


class _Views(torch.utils.data.Dataset[_View]):
    """Sample number → view. Every epoch shows each picture once, in an order of its own.

    In place of a picture that cannot be read stands the next one in that order that can.
    """

    def __init__(self, dataset: SegmentationDataset, augmentation: AugmentationConfig, seed: int) -> None:
        self.dataset = dataset
        self.augmentation = augmentation
        self.seed = seed
        self._order = functools.lru_cache(maxsize=2)(self._epoch_order)
        self._views = Augmentation(augmentation, seed)

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        return permutation(self.seed, "epochs", epoch, len(self.dataset))

    def __getitem__(self, number: int) -> _View:
        epoch, place = divmod(number, len(self.dataset))
        skipped: list[str] = []
        while True:
            picture = int(self._order(epoch)[(place + len(skipped)) % len(self.dataset)])
            try:
                sample = self.dataset[picture]
            except BrokenFileError as error:
                skipped.append(str(error))
                if len(skipped) == len(self.dataset):
                    raise
            else:
                image, labels = self._views(sample.image_hw3, sample.labels_hw, number)
                return _View(image, labels, picture, tuple(skipped))

    def __reduce__(self) -> tuple[object, ...]:
        return _Views, (self.dataset, self.augmentation, self.seed)


def _collate(views: list[_View]) -> _Share:
    return _Share(
        torch.from_numpy(np.stack([view.image_hw3 for view in views])),
        torch.from_numpy(np.stack([view.labels_hw for view in views])),
        torch.tensor([view.picture for view in views]),
        tuple(message for view in views for message in view.skipped),
    )


class _Told(torch.utils.data.Dataset[_View | UsageError]):
    """Views for a loading process: what ends it is handed over, since torch would wrap a trace around its sentence."""

    def __init__(self, views: _Views) -> None:
        self._views = views

    def __getitem__(self, number: int) -> _View | UsageError:
        try:
            return self._views[number]
        except UsageError as error:
            return UsageError(str(error))


def _collate_told(views: list[_View | UsageError]) -> _Share | UsageError:
    sound = [view for view in views if isinstance(view, _View)]
    return (
        _collate(sound) if len(sound) == len(views) else next(v for v in views if isinstance(v, UsageError))
    )


class _Skipped:
    """The pictures that could not be read so far, each told once; too many end the stream."""

    def __init__(self, dataset: SegmentationDataset, tell: Callable[[str], None]) -> None:
        self._dataset, self._tell = dataset, tell
        self._most = int(dataset.broken_share * len(dataset))
        self._known: set[str] = set()

    def note(self, messages: tuple[str, ...]) -> None:
        for message in messages:
            if message in self._known:
                continue
            self._known.add(message)
            if len(self._known) > self._most:
                raise UsageError(
                    f"{len(self._known)} of {len(self._dataset)} pictures of data set '{self._dataset.name}' cannot "
                    f"be read, must be at most {self._most} (broken_share {self._dataset.broken_share:g}); "
                    "repair them, or raise broken_share:\n  " + "\n  ".join(sorted(self._known))
                )
            self._tell(message)


def _numbers(shown: Iterator[int], batch_size: int, rank: int, world_size: int) -> Iterator[list[int]]:
    """The samples of a rank's share of each of these batches."""
    share = batch_size // world_size
    for batch in shown:
        first = batch * batch_size + rank * share
        yield list(range(first, first + share))


class _Cycles:
    """Step → which batch it shows, in a stream of so many that comes round again, each time in an order of its own.

    StudentBatches keep together: beside other pictures a teacher's last bits could be others, and nothing kept could be read.
    """

    def __init__(self, batches: int, seed: int) -> None:
        self._batches = batches
        self._order = functools.lru_cache(maxsize=2)(
            lambda cycle: permutation(seed, "cycles", cycle, batches)
        )

    def __call__(self, step: int) -> int:
        cycle, place = divmod(step, self._batches)
        return int(self._order(cycle)[place]) if cycle else place


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
    every: int = 1,
    rank: int = 0,
    world_size: int = 1,
    loader_workers: int = 0,
    on_skipped: Callable[[str], None] = warnings.warn,
) -> Iterator[HostBatch]:
    """Batches from `start_step` on, without end.

    Epochs follow each other without a gap: a batch may hold the end of one and the start of the next. With
    `augmentation.views` the stream comes round after as many batches as hold so many views of every picture, and shows
    the same batches again, in another order each time.

    Args:
        dataset: the pictures.
        augmentation: how views are drawn from them.
        batch_size: of the global batch, over all ranks.
        seed: of order and views; no global random state is read or changed.
        start_step: the first batch to yield; the same as if the batches before it had been drawn.
        every: from one batch to the next that is yielded; those between them are not drawn.
        rank: which contiguous share of each global batch to yield.
        world_size: number of shares.
        loader_workers: processes that prepare batches; 0 prepares them here.
        on_skipped: told once of every picture that cannot be read and is skipped.

    Raises:
        UsageError: the batch cannot be shared equally, or the data set is empty; while iterating: more
            pictures are unreadable than the data set's `broken_share` allows.
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
    steps = itertools.count(start_step, every)
    shown: Iterator[int] = itertools.count(start_step, every)
    if augmentation.views is not None:
        batches = math.ceil(augmentation.views * len(dataset) / batch_size)
        shown = map(_Cycles(batches, seed), shown)
    numbers = _numbers(shown, batch_size, rank, world_size)
    return _batches(views, numbers, steps, loader_workers, _Skipped(dataset, on_skipped))


def _batches(
    views: _Views, numbers: Iterator[list[int]], steps: Iterator[int], loader_workers: int, skipped: _Skipped
) -> Iterator[HostBatch]:
    if loader_workers:
        # forkserver: a fork of a process that holds threads (Ray, CUDA, OpenCV) may hang. The server imports
        # torch and albumentations once, so each further worker starts at once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        loader = DataLoader(
            _Told(views),
            batch_sampler=numbers,
            num_workers=loader_workers,
            collate_fn=_collate_told,
            worker_init_fn=_prepare_worker,
            multiprocessing_context=context,
            generator=torch.Generator(),  # else the loader draws its base seed from the global state
        )
        shares: Iterator[_Share | UsageError] = iter(loader)
    else:
        shares = (_collate([views[number] for number in share]) for share in numbers)
    for step, share in zip(steps, shares, strict=False):  # neither ends
        if isinstance(share, UsageError):
            raise share
        skipped.note(share.skipped)
        yield HostBatch(share.images_bhw3.permute(0, 3, 1, 2), share.labels_bhw, share.pictures, step)
