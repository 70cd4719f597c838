"""The data-parallel workers of a cohort, as one of them sees them: rank, device, collectives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from distill.device_errors import is_device_fault, release_frames
from distill.device_memory import free_memory
from distill.errors import UsageError
from distill.training import Reduce
from orchestrator.planning.config import ComputeConfig

T = TypeVar("T")


class MemoryLayout(NamedTuple):
    """Size, stride and type of a dense tensor."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> MemoryLayout:
        """Layout of a tensor; for a tensor with gaps, that of a dense copy."""
        dense = tensor if _is_dense(tensor) else tensor.clone()
        return cls(tuple(dense.shape), dense.stride(), dense.dtype)

    def dense(self, tensor: Tensor) -> Tensor:
        """A tensor of this layout as it is, or its dense copy."""
        return tensor if _is_dense(tensor) else self.empty(tensor.device).copy_(tensor)

    def empty(self, device: torch.device) -> Tensor:
        """An uninitialised tensor of this layout."""
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=device)


def _is_dense(tensor: Tensor) -> bool:
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def _bytes_of(tensor: Tensor) -> Tensor:
    """The memory of a dense tensor as bytes."""
    return tensor.as_strided((tensor.numel(),), (1,), 0).view(torch.uint8)


class Workers:
    """Rank, world size, device and collectives of a cohort's workers. Collectives are called by all workers together."""

    def __init__(self, compute: ComputeConfig) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.is_rank_0 = self.rank == 0
        # The number of threads decides the order of sums, and so the last bits: it is part of the plan.
        torch.set_num_threads(compute.cpus_per_worker)
        if compute.device == "cuda":
            self.device = ray.train.torch.get_device()
            torch.cuda.set_device(self.device)
            torch.set_float32_matmul_precision("high")  # TF32, as cuDNN has it by default
            torch.backends.cudnn.benchmark = True
        else:
            self.device = torch.device("cpu")
            torch.use_deterministic_algorithms(True, warn_only=True)
        self.is_alone = self.world_size == 1
        # Plain objects are sent over gloo, whatever backend sends the gradients.
        self._objects: Any = None if self.is_alone else dist.new_group(backend="gloo")
        self.reduce: Reduce | None = None if self.is_alone else self._mean
        if self.device.type == "cuda" and not self.is_alone:
            self._mean(torch.zeros(1, device=self.device))()  # NCCL allocates its buffers while there is room

    def close(self) -> None:
        """End the group for plain objects: each holds threads and files. All workers call this together."""
        if self._objects is not None:
            dist.destroy_process_group(self._objects)
            self._objects = None

    def synchronise(self) -> None:
        """Wait for the device, so that an error of what it computes is raised here."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def alone_view(self) -> Workers:
        """A view of this worker with world size 1, for students that it trains alone."""
        alone = copy.copy(self)
        alone.rank, alone.world_size = 0, 1
        alone.is_rank_0 = alone.is_alone = True
        alone.reduce = alone._objects = None
        return alone

    def _mean(self, tensor: Tensor) -> Callable[[], None]:
        work: Any = dist.all_reduce(tensor, async_op=True)

        def finish() -> None:
            work.wait()
            tensor.div_(self.world_size)

        return finish

    def to_device(self, tensor: Tensor) -> Tensor:
        """A host tensor on the device. A GPU copies it from pinned memory, without a wait."""
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def from_rank_0(self, find: Callable[[], T]) -> T:
        """The result of `find` on rank 0, on all workers."""
        if self.is_alone:
            return find()
        return self.broadcast_object(find() if self.is_rank_0 else None, source=0)

    def gather(self, value: T) -> list[T]:
        """The value of every worker, in the order of ranks. Plain objects."""
        if self.is_alone:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._objects)
        return values

    def broadcast_object(self, value: T | None, *, source: int) -> T:
        """The value of worker `source`, a plain object, on all workers."""
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=source, group=self._objects)
        found: T = box[0]
        return found

    def broadcast_tensors(
        self, tensors: Sequence[Tensor] | None, layouts: Sequence[MemoryLayout], *, source: int
    ) -> list[Tensor]:
        """The tensors of worker `source`, on all workers: the same bits in the same memory layout.

        Args:
            tensors: those of `source`; None on the other workers.
            layouts: of the tensors, known to all workers.
            source: rank of the worker that has them.
        """
        if tensors is None:
            tensors = [layout.empty(self.device) for layout in layouts]
        dense = [layout.dense(tensor) for layout, tensor in zip(layouts, tensors, strict=True)]
        # As bytes: gloo does not send every type.
        sent = [dist.broadcast(_bytes_of(tensor), src=source, async_op=True) for tensor in dense]
        for work in sent:
            work.wait()  # type: ignore[union-attr]  # asynchronous, so it is not None
        return dense

    def send_object(self, value: object, target: int) -> None:
        """Send a plain object to one worker, which calls `receive_object`."""
        dist.send_object_list([value], dst=target, group=self._objects)

    def receive_object(self, source: int) -> Any:
        """The object that worker `source` sends to this one."""
        box: list[Any] = [None]
        dist.recv_object_list(box, src=source, group=self._objects)
        return box[0]

    def attempt(self, work: Callable[[], T]) -> T | Exception:
        """The result of something that may fail on any worker, or an exception on all of them.

        The workers gather their errors before they continue, so none waits in a collective that another one has left. If a
        worker is dead, the gather raises. A returned error holds no frames, and so no memory.

        Raises:
            Exception: a fault of the device, which ends the process.
        """
        value: T | None = None
        failure: Exception | None = None
        try:
            value = work()
        except Exception as error:
            if is_device_fault(error):
                raise
            release_frames(error)
            failure = error
        summary = (
            None
            if failure is None
            else (isinstance(failure, UsageError), str(failure), type(failure).__name__)
        )
        first = next((found for found in self.gather(summary) if found is not None), None)
        if failure is not None:
            return failure
        if first is None:
            return cast(T, value)
        is_usage, text, kind = first
        return UsageError(text) if is_usage else RuntimeError(f"on another worker: {kind}: {text}")

    def free_memory(self) -> None:
        """Release the memory that nothing refers to."""
        free_memory(self.device)
