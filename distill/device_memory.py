"""Memory of a device: what is released after a failure, and copies on the host."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from distill.device_errors import is_out_of_memory, release_frames

T = TypeVar("T")


def free_memory(device: torch.device) -> None:
    """Release what nothing refers to: cycles, and the memory that torch keeps for later allocations."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def tried_again(device: torch.device, work: Callable[[], T]) -> T:
    """The result of `work`, which is called again after it ran out of memory: what torch kept may have been in the way."""
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        release_frames(error)
    free_memory(device)
    return work()


def copy_to_host(state: Any) -> Any:
    """Copies on the host of all tensors in a tree, of one moment. The host waits for the device once, not per tensor.

    Tensors that are on the host are copied too, so that the result does not change with the original.
    """
    devices: set[torch.device] = set()

    def copied(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.device.type == "cpu":
            return value.detach().clone()
        devices.add(value.device)
        pinned = torch.empty_like(value, device="cpu", pin_memory=True)
        return pinned.copy_(value.detach(), non_blocking=True)

    result = tree_map(copied, state)
    for device in devices:
        torch.cuda.current_stream(device).synchronize()
    return result
