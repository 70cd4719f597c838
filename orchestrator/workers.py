"""The workers of a cohort, seen from one of them."""

from __future__ import annotations

import copy
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

    def by_itself(self) -> Workers:
        """This worker as if there were no others: who trains students that it has to itself."""
        mine = copy.copy(self)
        mine.rank, mine.world_size = 0, 1
        mine.leads = mine.alone = True
        mine.reduce = mine._words = None
        return mine

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

    def whole(self, share: Tensor) -> Tensor:
        """All workers' shares of a batch, in the order of ranks, as they lie in memory.

        Args:
            share: `b×…`, as large on every worker; pictures and maps may lie channels last.
        """
        if self.alone:
            return share
        channels_last = share.ndim == 4 and not share.is_contiguous()
        rows = (share.permute(0, 2, 3, 1) if channels_last else share).contiguous()
        whole = rows.new_empty((self.world_size * len(rows), *rows.shape[1:]))
        # As bytes: gloo does not carry every type.
        parts = [part.view(torch.uint8) for part in whole.chunk(self.world_size)]
        dist.all_gather(parts, rows.view(torch.uint8))
        return whole.permute(0, 3, 1, 2) if channels_last else whole

    def hand_over(self, value: T | None, giver: int, taker: int) -> T | None:
        """Passes something plain from one worker to another; those two call it together. The taker has it afterwards."""
        box: list[Any] = [value]
        if self.rank == giver:
            dist.send_object_list(box, dst=taker, group=self._words)
            return None
        dist.recv_object_list(box, src=giver, group=self._words)
        found: T = box[0]
        return found

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
