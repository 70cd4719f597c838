"""The moving average of a model's weights, updated without a wait for the device."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage(nn.Module):
    """Exponential moving average of a model's parameters and floating-point buffers.

    The average is torch's `AveragedModel` with `get_ema_multi_avg_fn`, to the bit, and its state has the same keys.
    `AveragedModel` reads its counter, which is on the device, twice in every step: each time the host waits.
    Counters among the buffers (`num_batches_tracked`) are copied.

    Args:
        model: what is averaged. Its tensors stay the same objects.
        decay: share of the average that is kept in an update.
    """

    n_averaged: Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)
        tensors = [*model.parameters(), *model.buffers()]
        device = tensors[0].device
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.long, device=device))
        self._decay = decay
        self._has_begun = False
        pairs = list(zip((*self.module.parameters(), *self.module.buffers()), tensors, strict=True))
        self._averaged = [(average.detach(), own) for average, own in pairs if own.is_floating_point()]
        self._copied = [(average, own) for average, own in pairs if not own.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's weights into the average; the first time they are the average."""
        averages, own = [a for a, _ in self._averaged], [o.detach() for _, o in self._averaged]
        if self._has_begun:
            torch._foreach_lerp_(averages, own, 1 - self._decay)
        else:
            torch._foreach_copy_(averages, own)
        if self._copied:
            torch._foreach_copy_([a for a, _ in self._copied], [o for _, o in self._copied])
        self.n_averaged += 1
        self._has_begun = True

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Restore a state of `state_dict`, of this class or of torch's `AveragedModel`."""
        self._has_begun = bool(state_dict["n_averaged"] > 0)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)
