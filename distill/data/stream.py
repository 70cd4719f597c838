"""Infinite streams of batches of random views, either always new or repeating after a number of batches.

Batch s is a pure function of data set, augmentation, batch size, seed and s.
"""

from __future__ import annotations

import functools
import itertools
import math
import multiprocessing
import os
import threading
import time
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
from distill.data.loader_memory import (
    PREFETCHED,
    SHARED_MEMORY,
    bytes_needed,
    free_bytes,
    shortage,
    use_short_socket_folder,
)
from distill.data.philox import permutation
from distill.data.sample import SegmentationDataset
from distill.errors import UsageError

_LOOK_SECONDS = 5.0
"""Time after which a loader looks whether its processes are alive."""
_TIMED_OUT = "DataLoader timed out"


@dataclass(frozen=True)
class HostBatch:
    """One rank's share of a global batch, in host memory.

    Attributes:
        images_b3hw: RGB, uint8, channels last in memory.
        labels_bhw: classes, uint8, 255 where ignored.
        index: index of each view's picture in the data set, int64.
        step: number of the global batch.
    """

    images_b3hw: Tensor
    labels_bhw: Tensor
    index: Tensor
    step: int


class _View(NamedTuple):
    image_hw3: NDArray[np.uint8]
    labels_hw: NDArray[np.uint8]
    picture: int
    skipped: tuple[str, ...]
    """Errors of the unreadable pictures that this view replaces."""


class _Share(NamedTuple):
    images_bhw3: Tensor
    labels_bhw: Tensor
    pictures: Tensor
    skipped: tuple[str, ...]


class _Views(torch.utils.data.Dataset[_View]):
    """Maps a sample number to a view. Every epoch has each picture once, in its own random order.

    An unreadable picture is replaced by the next readable one in that order.
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


class _ViewsOrErrors(torch.utils.data.Dataset[_View | UsageError]):
    """Views for a loader process; returns errors instead of raising, because torch would add a traceback to the message."""

    def __init__(self, views: _Views) -> None:
        self._views = views

    def __getitem__(self, number: int) -> _View | UsageError:
        try:
            return self._views[number]
        except UsageError as error:
            return UsageError(str(error))


def _collate_or_error(views: list[_View | UsageError]) -> _Share | UsageError:
    sound = [view for view in views if isinstance(view, _View)]
    return (
        _collate(sound) if len(sound) == len(views) else next(v for v in views if isinstance(v, UsageError))
    )


class _Skipped:
    """Reports each unreadable picture once; raises UsageError when there are too many."""

    def __init__(self, dataset: SegmentationDataset, report: Callable[[str], None]) -> None:
        self._dataset, self._report = dataset, report
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
            self._report(message)


def _numbers(batches: Iterator[int], batch_size: int, rank: int, world_size: int) -> Iterator[list[int]]:
    """Sample numbers of a rank's share of each batch."""
    share = batch_size // world_size
    for batch in batches:
        first = batch * batch_size + rank * share
        yield list(range(first, first + share))


class _Cycles:
    """Maps a step to a batch number, for a stream that repeats its batches in another order each cycle.

    Batches are repeated whole: with other pictures in a batch, the last bits of a teacher's output could differ, and
    its cached outputs could not be used.
    """

    def __init__(self, batches: int, seed: int) -> None:
        self._batches = batches
        self._order = functools.lru_cache(maxsize=2)(
            lambda cycle: permutation(seed, "cycles", cycle, batches)
        )

    def __call__(self, step: int) -> int:
        cycle, place = divmod(step, self._batches)
        return int(self._order(cycle)[place]) if cycle else place


class _Packed(NamedTuple):
    """A share that goes through a pipe: arrays are pickled, tensors would be put into shared memory."""

    images_bhw3: NDArray[np.uint8]
    labels_bhw: NDArray[np.uint8]
    pictures: NDArray[np.int64]
    skipped: tuple[str, ...]


def _collate_packed(views: list[_View | UsageError]) -> _Packed | UsageError:
    share = _collate_or_error(views)
    if isinstance(share, UsageError):
        return share
    images, labels, pictures, skipped = share
    return _Packed(images.numpy(), labels.numpy(), pictures.numpy(), skipped)


def _unpacked(share: _Share | _Packed | UsageError) -> _Share | UsageError:
    if isinstance(share, _Packed):
        images, labels, pictures, skipped = share
        return _Share(torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(pictures), skipped)
    return share


def _prepare_worker(worker: int) -> None:
    """Set up a loader process, which ends with the process that reads its batches.

    It has to see to that itself: its parent is the fork server, which lives as long as any of its loader processes.
    """
    import cv2

    cv2.setNumThreads(0)
    reader = multiprocessing.parent_process()
    assert reader is not None, "a loader process has been started by its reader"
    threading.Thread(target=_end_with, args=(reader.join,), name="reader watch", daemon=True).start()


def _end_with(wait_for_reader: Callable[[], None]) -> None:
    wait_for_reader()
    os._exit(1)


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
    timeout_seconds: float | None = None,
    on_skipped: Callable[[str], None] = warnings.warn,
) -> Iterator[HostBatch]:
    """An infinite stream of batches from `start_step` on.

    A batch may contain the end of one epoch and the start of the next. With `augmentation.views` the stream has that
    many views of every picture and then repeats the same batches, in another order each time.

    Args:
        dataset: the data set.
        augmentation: config of the random views.
        batch_size: size of the global batch, over all ranks.
        seed: seed of order and views; no global random state is read or changed.
        start_step: number of the first batch; batches before it are not drawn.
        every: step between yielded batches; those between are not drawn.
        rank: the contiguous share of each global batch to yield.
        world_size: number of shares.
        loader_workers: number of loader processes; 0 loads in this process. Their batches go through shared memory, or
            through pipes if it is too small for the batches of all ranks.
        timeout_seconds: longest time to wait for a batch of the loader processes; None waits without a limit.
        on_skipped: called once with the error of every unreadable picture.

    Raises:
        UsageError: the batch cannot be divided equally, or the data set is empty; while iterating, if more pictures are
            unreadable than the data set's `broken_share` allows.
        LoaderError: while iterating, if the loader processes died or gave no batch in time; says why if that is known.
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
    batches: Iterator[int] = itertools.count(start_step, every)
    if augmentation.views is not None:
        cycle = math.ceil(augmentation.views * len(dataset) / batch_size)
        batches = map(_Cycles(cycle, seed), batches)
    numbers = _numbers(batches, batch_size, rank, world_size)
    skipped = _Skipped(dataset, on_skipped)
    if not loader_workers:
        return _batches((_collate([views[number] for number in share]) for share in numbers), steps, skipped)
    needed = world_size * bytes_needed(augmentation, batch_size // world_size, loader_workers)
    if shortage(needed) is not None:
        needed = 0
    return _batches(_loaded(views, numbers, loader_workers, needed, timeout_seconds), steps, skipped)


class LoaderError(RuntimeError):
    """The loader processes died or gave no batch in time."""


def _loaded(
    views: _Views, numbers: Iterator[list[int]], loader_workers: int, shared: int, timeout: float | None
) -> Iterator[_Share | UsageError]:
    """The shares from loader processes, through `shared` bytes of shared memory, or through pipes if that is 0."""
    # A fork of a process with threads (Ray, CUDA, OpenCV) may hang. The fork server imports torch and albumentations once,
    # so workers start fast.
    use_short_socket_folder()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    loader = DataLoader(
        _ViewsOrErrors(views),
        batch_sampler=numbers,
        num_workers=loader_workers,
        prefetch_factor=PREFETCHED,
        collate_fn=_collate_or_error if shared else _collate_packed,
        worker_init_fn=_prepare_worker,
        multiprocessing_context=context,
        generator=torch.Generator(),  # otherwise the loader draws its base seed from the global random state
        timeout=_LOOK_SECONDS,
    )
    shares = iter(loader)
    asked = time.monotonic()
    while True:
        try:
            share = next(shares)
        except RuntimeError as error:
            waited = time.monotonic() - asked
            if _TIMED_OUT in str(error) and (timeout is None or waited < timeout):
                continue
            raise _explained(error, waited, shared) from error
        yield _unpacked(share)
        asked = time.monotonic()


def _explained(error: RuntimeError, waited: float, shared: int) -> Exception:
    """The error of a loader with its cause, if that is known."""
    free = free_bytes()
    if free is not None and free < shared:
        return UsageError(
            f"the loader processes gave no batch for {waited:.0f} s: {SHARED_MEMORY} has {free / 2**20:.0f} MiB "
            f"free, and they need {shared / 2**20:.0f}; start the container with a "
            "larger --shm-size, or lower operation.loader_workers"
        )
    return LoaderError(f"the loader processes gave no batch for {waited:.0f} s: {error}")


def _batches(
    shares: Iterator[_Share | UsageError], steps: Iterator[int], skipped: _Skipped
) -> Iterator[HostBatch]:
    for step, share in zip(steps, shares, strict=False):  # both are infinite
        if isinstance(share, UsageError):
            raise share
        skipped.note(share.skipped)
        yield HostBatch(share.images_bhw3.permute(0, 3, 1, 2), share.labels_bhw, share.pictures, step)
