"""What an error says about the device: out of memory, a fault of the device, or a wrong set-up. Imports no torch.

CUDA, cuBLAS, cuDNN, cuSOLVER, NCCL and torch's allocators report the same condition in different words and as different
classes: `torch.OutOfMemoryError`, `torch.AcceleratorError`, `torch.distributed.DistBackendError`, and plain RuntimeError.
"""

from __future__ import annotations

import re
import traceback
from typing import Literal

DeviceCondition = Literal["out of memory", "device fault", "usage"]

MESSAGES: tuple[tuple[str, DeviceCondition], ...] = (
    # Where the condition is out of memory, NCCL and cuDNN also name themselves: this has to come first.
    (
        r"\bout of memory\b",
        "out of memory",
    ),  # CUDA, `CUDA error:`, HIP, NCCL's `Cuda failure 2 'out of memory'`
    (r"cudaErrorMemoryAllocation", "out of memory"),
    (r"(CUBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_ALLOC_FAILED|CUFFT_ALLOC_FAILED", "out of memory"),
    (r"CUDNN_STATUS_INTERNAL_ERROR_(DEVICE|HOST)_ALLOCATION_FAILED", "out of memory"),
    (r"CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate", "out of memory"),  # no room for the handle
    (r"Failed to CUDA (host )?(malloc|calloc|alloc)", "out of memory"),  # NCCL
    (r"\b(can(not|'t)|unable to) allocate\b", "out of memory"),  # torch on the host, numpy, ENOMEM
    (r"no kernel image is available|not compiled with CUDA|No CUDA GPUs are available", "usage"),
    (
        r"driver version is insufficient|Found no NVIDIA driver|NVIDIA driver on your system is too old",
        "usage",
    ),
    (r"invalid device ordinal|CUDA-capable device.* (is|are)(/are)? busy or unavailable", "usage"),
    (r"CUDNN_STATUS_(NOT_SUPPORTED|BAD_PARAM)", "usage"),  # cuDNN refuses a call, and the device is sound
    (r"\bCUDA (driver )?error\b|\bCuda failure\b|\bHIP error\b|device-side assert", "device fault"),
    (r"\b(CUBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_\w+|\bCUFFT_\w+|\bcuDNN error\b", "device fault"),
    (r"\bNCCL error\b|\bnccl\w*Error\b", "device fault"),
)
"""Words of a message, and what they say. The first row that matches decides; letters match in either case."""

_TABLE = tuple((re.compile(words, re.IGNORECASE), condition) for words, condition in MESSAGES)


def device_condition(error: BaseException) -> DeviceCondition | None:
    """What an error says about the device; None if it says nothing, as most errors of models and methods.

    After a device fault every further call to the device fails in this process. After the other two it goes on.
    """
    if isinstance(error, MemoryError):
        return "out of memory"
    # `torch.OutOfMemoryError`, known by its name: this module is imported where torch is not.
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return "out of memory"
    if not isinstance(error, RuntimeError | OSError | AssertionError):
        return None
    text = str(error)
    return next((condition for words, condition in _TABLE if words.search(text)), None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a device or on the host."""
    return device_condition(error) == "out of memory"


def is_device_fault(error: BaseException) -> bool:
    """Whether the device is of no more use to this process."""
    return device_condition(error) == "device fault"


def release_frames(error: BaseException) -> None:
    """Drop the tracebacks of an error and of those before it; their text becomes a note of the error.

    A traceback holds the frames that the error came through, and with them every tensor of a failed step.
    """
    text = "".join(traceback.format_exception(error)).rstrip()
    has_traceback = False
    chain: list[BaseException] = [error]
    seen: set[int] = set()
    while chain:
        link = chain.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        has_traceback = has_traceback or link.__traceback__ is not None
        link.__traceback__ = None
        chain += [before for before in (link.__cause__, link.__context__) if before is not None]
    error.__cause__ = error.__context__ = None
    if has_traceback:
        error.add_note(text)
