"""The mode in which models are evaluated: no training behaviour, no change of random states."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def evaluating(models: Sequence[Callable[..., Any]], device: torch.device) -> Iterator[None]:
    """Set eval mode; restore every submodule's mode and the random states afterwards."""
    import torch

    modules = [part for model in models if isinstance(model, torch.nn.Module) for part in model.modules()]
    modes = [module.training for module in modules]
    # Pictures may have many sizes, and cuDNN would time its algorithms anew for each of them.
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for module in modules:
            module.training = False
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = benchmark
            for module, training in zip(modules, modes, strict=True):
                module.training = training
