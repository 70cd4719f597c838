"""The workers of a cohort, seen from one of them."""

from __future__ import annotations

import copy
import resource
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from distill.errors import UsageError
from distill.training import Reduce
from orchestrator.planning.config import ComputeConfig

T = TypeVar("T")


class Shape(NamedTuple):
    """How a tensor lies in memory, without a gap."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Shape:
        """A tensor's; for one with gaps that of a copy without."""
        whole = tensor if _is_dense(tensor) else tensor.clone()
        return cls(tuple(whole.shape), whole.stride(), whole.dtype)

    def dense(self, tensor: Tensor) -> Tensor:
        """A tensor of this shape as it is, or the copy without gaps that has it."""
        return tensor if _is_dense(tensor) else self.empty(tensor.device).copy_(tensor)

    def empty(self, device: torch.device) -> Tensor:
        """Memory for one, not filled in."""
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=device)


def _is_dense(tensor: Tensor) -> bool:
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def _bytes(tensor: Tensor) -> Tensor:
    """All of a dense tensor, in the order in which it lies in memory."""
    return tensor.as_strided((tensor.numel(),), (1,), 0).view(torch.uint8)


class Workers:
    """Rank, device, and the few words that workers exchange."""

    def __init__(self, compute: ComputeConfig) -> None:
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
        return self.told_by(0, ask() if self.leads else None)

    def gathered(self, value: T) -> list[T]:
        """Every worker's value, in the order of ranks."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._words)
        return values

    def told_by(self, giver: int, value: T | None) -> T:
        """What one worker has, something plain, told to all."""
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=giver, group=self._words)
        found: T = box[0]
        return found

    def passed_on(
        self, tensors: Sequence[Tensor] | None, shapes: Sequence[Shape], giver: int
    ) -> list[Tensor]:
        """One worker's tensors, for all: the same bits in the same order in memory.

        Args:
            tensors: the giver's; what others have does not count.
            shapes: of `Shape.of`, known to all.
            giver: its rank.
        """
        if tensors is None:
            tensors = [shape.empty(self.device) for shape in shapes]
        whole = [shape.dense(tensor) for shape, tensor in zip(shapes, tensors, strict=True)]
        # As bytes: gloo does not carry every type.
        sent = [dist.broadcast(_bytes(tensor), src=giver, async_op=True) for tensor in whole]
        for each in sent:
            each.wait()  # type: ignore[union-attr]  # asynchronous, so there is something to wait for
        return whole

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
