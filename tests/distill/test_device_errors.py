"""Messages of CUDA, cuBLAS, cuDNN, NCCL and torch, as they are printed, and what they say about the device."""

from __future__ import annotations

import errno
import gc
import os
import weakref

import numpy as np
import pytest
import torch

from distill.device_errors import device_condition, release_frames
from distill.errors import UsageError
from distill.models import build_model

OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB"),
    torch.OutOfMemoryError("anything"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError(
        "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL "
        "version 2.27.5\nncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
    ),
    torch.distributed.DistBackendError("NCCL error: unhandled cuda error\nLast error:\nFailed to CUDA malloc 4194304 bytes"),
    torch.distributed.DistBackendError("NCCL error: unhandled system error\nLast error:\nFailed to CUDA host alloc 8 bytes"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
                 "allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)"),
    RuntimeError("HIP out of memory. Tried to allocate 1.00 GiB."),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    MemoryError(),
)  # fmt: skip
FAULTS = (
    torch.AcceleratorError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA driver error: unknown error"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm( handle, opa, opb, m, n, k)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error (run with NCCL_DEBUG=INFO for details)"),
    torch.distributed.DistBackendError("NCCL error: remote process exited or there was a network error"),
)  # fmt: skip
USAGE = (
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    AssertionError("Torch not compiled with CUDA enabled"),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
    RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    RuntimeError("CUDA error: invalid device ordinal"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input."),
)  # fmt: skip
OTHERS = (
    RuntimeError("shape '[2, 3]' is invalid for input of size 5"),
    RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    UsageError("the file 'out of memory.yaml' is not there"),
    ValueError("CUDA error"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (error, expected)
        for expected, errors in (
            ("out of memory", OUT_OF_MEMORY), ("device fault", FAULTS), ("usage", USAGE), (None, OTHERS),
        )
        for error in errors
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_a_message_of_the_device_says_out_of_memory_or_fault_or_usage(
    error: BaseException, expected: str | None
) -> None:
    assert device_condition(error) == expected


def test_allocations_that_fail_for_real_are_out_of_memory() -> None:
    for allocate in (lambda: torch.empty(10**15), lambda: np.empty(10**15)):
        with pytest.raises((RuntimeError, MemoryError)) as failed:
            allocate()
        assert device_condition(failed.value) == "out of memory"


@pytest.mark.parametrize("size", [(64, 75), (64, 96)])
@pytest.mark.parametrize("error", [OUT_OF_MEMORY[4], FAULTS[6], OUT_OF_MEMORY[2]], ids=str)
def test_an_error_of_the_device_is_no_refusal_of_the_pictures_size(
    monkeypatch: pytest.MonkeyPatch, error: Exception, size: tuple[int, int]
) -> None:
    model = build_model("deeplabv3-test_resnet", 5).eval()

    def fails(images: torch.Tensor) -> None:
        raise error

    monkeypatch.setattr(model.backbone.network, "forward", fails)
    with pytest.raises(type(error)) as raised:
        model(torch.zeros(1, 3, *size))
    assert raised.value is error


def test_an_error_whose_frames_are_released_keeps_its_text_and_none_of_the_tensors() -> None:
    def step() -> None:
        maps = torch.zeros(4)
        held.append(weakref.ref(maps))
        try:
            other = maps + 1
            held.append(weakref.ref(other))
            raise RuntimeError("first")
        except RuntimeError as first:
            raise torch.OutOfMemoryError("second") from first

    held: list[weakref.ref[torch.Tensor]] = []
    kept = None
    try:
        step()
    except torch.OutOfMemoryError as error:
        release_frames(error)
        kept = error
    gc.collect()
    assert kept is not None
    assert [reference() for reference in held] == [None, None]
    [note] = kept.__notes__
    assert "in step" in note
    assert "RuntimeError: first" in note
    assert "OutOfMemoryError: second" in note
    assert str(kept) == "second"
