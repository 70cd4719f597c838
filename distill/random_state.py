"""A separate random state per student, so that no student's random numbers depend on other students."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


class RandomState:
    """A separate random state: torch uses it inside `with`, and the outer state is restored afterwards."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self.reseed(seed, stream=0)

    def reseed(self, seed: int, stream: int) -> None:
        """Reset to a seed; different streams of one seed are independent."""
        value = (seed * 1_000_003 + stream) % 2**63
        self._cpu_state = torch.Generator().manual_seed(value).get_state()
        self._cuda_state = (
            torch.Generator(self._cuda).manual_seed(value).get_state() if self._cuda is not None else None
        )

    def __enter__(self) -> None:
        self._outer_cpu = torch.get_rng_state()
        torch.set_rng_state(self._cpu_state)
        if self._cuda is not None:
            self._outer_cuda = torch.cuda.get_rng_state(self._cuda)
            torch.cuda.set_rng_state(cast(Tensor, self._cuda_state), self._cuda)

    def __exit__(self, *exception: object) -> None:
        self._cpu_state = torch.get_rng_state()
        torch.set_rng_state(self._outer_cpu)
        if self._cuda is not None:
            self._cuda_state = torch.cuda.get_rng_state(self._cuda)
            torch.cuda.set_rng_state(self._outer_cuda, self._cuda)

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors."""
        return {"cpu": self._cpu_state, "cuda": self._cuda_state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        self._cpu_state = state["cpu"].cpu()
        self._cuda_state = None if state["cuda"] is None else state["cuda"].cpu()
