"""Precisions of forward passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.errors import unknown

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp16"]


def autocast(device: torch.device | str, precision: Precision) -> torch.autocast:
    """Autocast to a precision on a device.

    Raises:
        UsageError: the precision is unknown.
    """
    import torch

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in kinds:
        raise unknown("precision", precision, kinds)
    return torch.autocast(torch.device(device).type, dtype=kinds[precision], enabled=precision != "fp32")
