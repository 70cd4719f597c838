"""What a piece of work does on a CUDA device: waits, kernels, FLOPs and memory. For fake devices and for real ones."""

from __future__ import annotations

import heapq
import sys
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_PACKAGES = ("distill", "orchestrator")
_LARGEST = 6

# These make a new view of a tensor or allocate one: no kernel is launched.
_NO_KERNEL = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "t",
        "transpose",
        "permute",
        "expand",
        "slice",
        "select",
        "unsqueeze",
        "squeeze",
        "detach",
        "as_strided",
        "alias",
        "split",
        "split_with_sizes",
        "unbind",
        "unfold",
        "diagonal",
        "empty",
        "empty_strided",
        "empty_like",
        "new_empty",
        "new_empty_strided",
        "_reshape_alias",
        "lift_fresh",
        "view_as_real",
        "is_same_size",
        "_local_scalar_dense",
        "sym_size",
        "set_",
        "resize_",
        "dim",
        "is_pinned",
        "_fused_sdp_choice",
        "chunk",
        "narrow",
        "movedim",
        "flatten",
        "result_type",
        "device",
        "_conj",
    ]
)
# The host must know a result of these before it can continue.
_WAITS = frozenset(
    [
        "_local_scalar_dense",
        "item",
        "nonzero",
        "masked_select",
        "bincount",
        "unique",
        "_unique",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "is_nonzero",
        "equal",
        "histc",
        "repeat_interleave",
    ]
)


class Wait(NamedTuple):
    """Why the host waited for the device, and the innermost line of this project, or of a backward pass, that did it."""

    why: str
    where: str


class Allocation(NamedTuple):
    """A tensor that was made, with the line that made it."""

    size: int
    operator: str
    shape: tuple[int, ...]
    dtype: str
    where: str


@dataclass
class Seen:
    """What was seen between two calls of `mark`.

    Attributes:
        waits: how often the host waited, by reason and place.
        peak: largest number of bytes in use.
        kernels: number of kernels launched; of a fake device only, as are the next two.
        flops: floating-point operations of convolutions, matrix products and attention, by type of their inputs.
        largest: the largest tensors that were made, the largest first.
    """

    waits: Counter[Wait] = field(default_factory=Counter)
    peak: int = 0
    kernels: int = 0
    flops: Counter[str] = field(default_factory=Counter)
    largest: list[Allocation] = field(default_factory=list)

    @property
    def total_flops(self) -> int:
        """FLOPs of all types."""
        return sum(self.flops.values())


class Watch(Protocol):
    """Sees what happens on a device."""

    @property
    def live(self) -> int:
        """Bytes in use now."""
        ...

    def mark(self) -> Seen:
        """What was seen since the last call."""
        ...


class FakeWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator that is dispatched to a fake device.

    Args:
        backward_node: name of the node of a backward pass that runs; empty outside of one.
    """

    def __init__(self, backward_node: Callable[[], str] = lambda: "") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self._storages: dict[int, weakref.ref[Any]] = {}
        self._backward_node = backward_node
        self._seen = Seen()

    def mark(self) -> Seen:
        """See `Watch.mark`."""
        found, self._seen = self._seen, Seen(peak=self.live)
        found.largest.sort(reverse=True)
        return found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        name = func._schema.name.split("::")[1]
        inputs = [each for each in tree_leaves((args, given)) if isinstance(each, Tensor)]
        uses_device = any(each.device.type == "cuda" for each in inputs)
        why = _wait_of(name, args, given, uses_device)
        if why is not None:
            self._seen.waits[Wait(why, self._where())] += 1
        answer = _answer(func, name, args, given)
        made = [
            each for each in tree_leaves(answer) if isinstance(each, Tensor) and each.device.type == "cuda"
        ]
        if uses_device or made:
            self._seen.kernels += name not in _NO_KERNEL
            self._count_flops(func, args, given, answer, inputs)
            for tensor in made:
                self._hold(tensor, name)
        return answer

    def _count_flops(
        self, func: Any, args: Sequence[Any], given: Mapping[str, Any], answer: Any, inputs: list[Tensor]
    ) -> None:
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            with suppress(AssertionError, ValueError):  # a shape that torch's formula does not know
                kind = str(inputs[0].dtype).removeprefix("torch.")
                self._seen.flops[kind] += int(count(*args, **given, out_val=answer))

    def _hold(self, tensor: Tensor, operator: str) -> None:
        """Count a tensor's memory for as long as it lives."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        known = self._storages.get(key)
        if known is not None and known() is storage:
            return
        self._storages[key] = weakref.ref(storage, partial(self._release, key, size))
        self.live += size
        self._seen.peak = max(self._seen.peak, self.live)
        largest = self._seen.largest
        if len(largest) < _LARGEST or size > largest[0].size:
            kind = str(tensor.dtype).removeprefix("torch.")
            heapq.heappush(largest, Allocation(size, operator, tuple(tensor.shape), kind, self._where()))
            del largest[: len(largest) - _LARGEST]
            heapq.heapify(largest)

    def _release(self, key: int, size: int, _reference: object) -> None:
        self._storages.pop(key, None)
        self.live -= size

    def _where(self) -> str:
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            if (place := _project_line(frame.f_code.co_filename, frame.f_lineno)) is not None:
                return place
            frame = frame.f_back
        return f"backward of {self._backward_node()}" if self._backward_node() else "?"


class RealWatch:
    """Sees waits and memory of a real GPU. Kernels, FLOPs and single tensors are not counted."""

    def __init__(self, device: torch.device, caught: list[warnings.WarningMessage]) -> None:
        self._device = device
        self._caught = caught

    @property
    def live(self) -> int:
        """See `Watch.live`."""
        return torch.cuda.memory_allocated(self._device)

    def mark(self) -> Seen:
        """See `Watch.mark`."""
        seen = Seen(peak=torch.cuda.max_memory_allocated(self._device))
        for warning in self._caught:
            if "synchroniz" in str(warning.message):
                where = (
                    _project_line(warning.filename, warning.lineno) or f"{warning.filename}:{warning.lineno}"
                )
                seen.waits[Wait("synchronizing operation", where)] += 1
        self._caught.clear()
        torch.cuda.reset_peak_memory_stats(self._device)
        return seen


@contextmanager
def real_cuda() -> Iterator[RealWatch]:
    """Watch this machine's GPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield RealWatch(torch.device("cuda", 0), caught)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _project_line(file: str, line: int) -> str | None:
    """`distill/training.py:12` for a line of this project outside of its tests and test tools."""
    path = Path(file)
    if not {"site-packages", "testing", "tests"}.isdisjoint(path.parts):
        return None
    for package in _PACKAGES:
        if package in path.parts:
            at = len(path.parts) - 1 - path.parts[::-1].index(package)
            return f"{'/'.join(path.parts[at:])}:{line}"
    return None


def _wait_of(name: str, args: Sequence[Any], given: Mapping[str, Any], uses_device: bool) -> str | None:
    """Why an operator waits for the device, None if it does not."""
    if name in _WAITS and uses_device:
        return name
    if name in ("index", "index_put", "index_put_") and uses_device:
        return f"{name} by a mask" if _masks(args[1]) else None
    if name not in ("_to_copy", "copy_"):
        return None
    source = args[1] if name == "copy_" else args[0]
    target = args[0].device if name == "copy_" else torch.device(given.get("device") or source.device)
    asynchronous = given.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
    if source.device.type == target.type or "cuda" not in (source.device.type, target.type):
        return None
    if asynchronous and target.type == "cuda":
        return None
    return f"copy from {source.device.type} to {target.type}"


def _masks(indices: Sequence[Tensor | None]) -> list[Tensor]:
    return [each for each in indices if each is not None and each.dtype in (torch.bool, torch.uint8)]


def _answer(func: Any, name: str, args: Sequence[Any], given: Mapping[str, Any]) -> Any:
    """The operator's result. Where it depends on values, which fake tensors lack, a result of the right kind."""
    first: Any = args[0] if args else None
    if name == "_local_scalar_dense":
        if first.device.type == "cpu":
            with suppress(Exception):  # fake tensors of constants know their value
                return func(*args, **given)
        return True if first.dtype is torch.bool else 1.0 if first.dtype.is_floating_point else 1
    if name == "nonzero":
        return torch.empty(first.numel(), first.dim(), dtype=torch.int64, device=first.device)
    if name == "index" and (masks := _masks(args[1])):
        return first.new_empty((masks[0].numel(), *first.shape[masks[0].dim() :]))
    if name == "bincount":
        size = given.get("minlength", args[2] if len(args) > 2 else 1)
        return torch.empty(size, dtype=torch.int64, device=first.device)
    if name in ("equal", "is_nonzero"):
        return True
    if name in ("_fused_sgd_", "_fused_adamw_", "_fused_adam_"):
        return None
    if name == "_fused_sdp_choice":
        return 1  # flash attention
    return func(*args, **given)
