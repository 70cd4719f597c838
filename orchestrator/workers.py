"""The data-parallel workers of a cohort, seen from one of them."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any, TypeVar, cast

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from distill.errors import UsageError
from distill.training import Reduce
from orchestrator.config import ComputeChoice

T = TypeVar("T")


class Workers:
    """Rank, device, and the few words that workers exchange."""

    def __init__(self, compute: ComputeChoice) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.leads = self.rank == 0
        # Threads decide the order of sums, and with it the last bits: they are part of the plan.
        torch.set_num_threads(compute.cpus_per_worker)
        if compute.device == "cuda":
            self.device = ray.train.torch.get_device()
            torch.cuda.set_device(self.device)
            torch.backends.cudnn.benchmark = True
            torch.cuda.reset_peak_memory_stats(self.device)  # an earlier cohort's
        else:
            self.device = torch.device("cpu")
            torch.use_deterministic_algorithms(True, warn_only=True)
        self.alone = self.world_size == 1
        # Plain objects travel over gloo, whatever carries the gradients.
        self._words: Any = None if self.alone else dist.new_group(backend="gloo")
        self.reduce: Reduce | None = None if self.alone else self._mean

    def _mean(self, tensor: Tensor) -> Callable[[], None]:
        sent: Any = dist.all_reduce(tensor, async_op=True)

        def arrive() -> None:
            sent.wait()
            tensor.div_(self.world_size)

        return arrive

    def sent(self, tensor: Tensor) -> Tensor:
        """A host's tensor on the device. A GPU fetches it from locked memory, so that nobody waits until it has."""
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def told(self, ask: Callable[[], T]) -> T:
        """What rank 0 finds out, told to all."""
        if self.alone:
            return ask()
        answer: list[Any] = [ask() if self.leads else None]
        dist.broadcast_object_list(answer, src=0, group=self._words)
        found: T = answer[0]
        return found

    def gathered(self, value: T) -> list[T]:
        """Every worker's value, in the order of ranks."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._words)
        return values

    def attempt(self, work: Callable[[], T]) -> T | Exception:
        """The result of something that may fail on any worker, or an exception on all of them.

        The workers agree before they go on, so none waits for one that has turned back. A worker that is gone raises.
        """
        value: T | None = None
        failure: Exception | None = None
        try:
            value = work()
        except Exception as error:
            failure = error
        mine = (
            None
            if failure is None
            else (isinstance(failure, UsageError), str(failure), type(failure).__name__)
        )
        first = next((told for told in self.gathered(mine) if told is not None), None)
        if failure is not None:
            return failure
        if first is None:
            return cast(T, value)
        is_usage, text, kind = first
        return UsageError(text) if is_usage else RuntimeError(f"on another worker: {kind}: {text}")

    def free_memory(self) -> None:
        """Hands back what a student left in the device's cache."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def peak_memory(self) -> int:
        """Bytes: the device's peak on a GPU, the process's on a CPU (all seats together)."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
