"""Short trainings for tests, on one worker or on two workers (threads) of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from distill.data import AugmentationConfig
from distill.models import SegmentationModel
from distill.random_state import RandomState
from distill.recipe import Recipe
from distill.training import Batch, Reduce, Student, StudentSpec, teacher_output

SIZE = (32, 64)
CPU = torch.device("cpu")


def short_student(
    model: str,
    options: Mapping[str, Any],
    method: str,
    config: Mapping[str, Any],
    teacher: SegmentationModel,
    *,
    num_classes: int,
    rank: int = 0,
    reduce: Reduce | None = None,
) -> Student:
    """A student in training on the CPU; its method's preparation, if any, is done."""
    recipe = Recipe(
        steps=40, batch_size=2, augmentation=AugmentationConfig(crop=SIZE), lr=0.01, clip_norm=1.0, norm="group"
    )  # fmt: skip
    spec = StudentSpec(model, options, method, config, recipe, 0, num_classes)
    student = Student(spec, teacher.info, device=CPU, rank=rank, reduce=reduce)
    if student.method.preparation is not None:
        with RandomState(0, CPU):
            student.method.use_prepared(student.method.prepare(_teacher_batches(teacher, num_classes)))
    return student


def train_short(
    student: Student, teacher: SegmentationModel, steps: range, rank: int = 0, reduce: Reduce | None = None
) -> list[float]:
    """Train for some steps on a fixed stream of noise images; returns the weighted total of each."""
    totals = []
    for step in steps:
        images, labels = _pictures(student.spec.num_classes, step, rank)
        index = torch.tensor([2 * rank, 2 * rank + 1])
        student.train_step(
            Batch.shared(images, labels, index, teacher_output(teacher, images, "fp32"), reduce)
        )
        student.check()
        totals.append(sum(student.read_losses()[1].values()))
    return totals


def two_workers(work: Callable[[int, Reduce], Any]) -> list[Any]:
    """Results of `work(rank, reduce)` for ranks 0 and 1; `reduce` averages over both.

    Only one of the two threads runs between reductions, so that each finds the process's random state unchanged.

    Raises:
        Exception: the error of a worker.
        threading.BrokenBarrierError: the workers called `reduce` a different number of times.
    """
    given: list[Tensor | None] = [None, None]
    met = threading.Barrier(2, timeout=60)
    turn = threading.Lock()

    def reducing(rank: int) -> Reduce:
        def reduce(tensor: Tensor) -> Callable[[], None]:
            given[rank] = tensor.clone()
            turn.release()
            met.wait()
            mean = torch.stack([g for g in given if g is not None]).mean(0)
            met.wait()
            turn.acquire()
            tensor.copy_(mean)
            return lambda: None

        return reduce

    def worker(rank: int) -> Any:
        turn.acquire()
        try:
            return work(rank, reducing(rank))
        except BaseException:
            met.abort()
            raise
        finally:
            if turn.locked():
                turn.release()

    with ThreadPoolExecutor(2) as pool:
        return [future.result() for future in [pool.submit(worker, rank) for rank in range(2)]]


def _pictures(num_classes: int, step: int, rank: int) -> tuple[Tensor, Tensor]:
    """Two images of noise whose brightness shows the class, in blocks of 8×8 pixels, and their labels."""
    generator = torch.Generator().manual_seed(2 * step + rank)
    blocks = torch.randint(0, num_classes, (2, SIZE[0] // 8, SIZE[1] // 8), generator=generator)
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return torch.randn(2, 3, *SIZE, generator=generator) + labels[:, None] / num_classes, labels


def _teacher_batches(teacher: SegmentationModel, num_classes: int) -> Iterator[tuple[Any, Tensor]]:
    step = 0
    while True:
        images, labels = _pictures(num_classes, step, 0)
        yield teacher_output(teacher, images, "fp32"), labels
        step += 1
