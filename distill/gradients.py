"""A student's gradients in one tensor for the all-reduce of a step, and the record of its losses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NEVER = 2**62
"""`LossRecord.bad_step` while all losses are finite."""


class GradientBuffer:
    """All gradients of a student in one tensor: one all-reduce, one norm, no copies.

    A few numbers follow the gradients and are reduced with them: loss terms, squared norms of `Balance`, and whether a
    worker failed.
    """

    _MAX_ATTACHED = 63
    _ALIGNMENT = 16

    def __init__(self, model: nn.Module, method: nn.Module, device: torch.device) -> None:
        places: list[tuple[nn.Parameter, int]] = []
        offset = 0
        ends = []
        for module in (model, method):
            for parameter in module.parameters():
                if parameter.requires_grad:
                    places.append((parameter, offset))
                    offset += math.ceil(parameter.numel() / self._ALIGNMENT) * self._ALIGNMENT
            ends.append(offset)
        self._student_end, self._attached_start = ends
        self.flat = torch.zeros(offset + self._MAX_ATTACHED + 1, device=device)
        for parameter, start in places:
            view = self.flat[start : start + parameter.numel()]
            parameter.grad = view.as_strided(parameter.size(), parameter.stride(), view.storage_offset())

    def zero(self) -> None:
        """Set all gradients to zero in place."""
        self.flat.zero_()

    def attach(self, numbers: list[Tensor], *, failed: bool) -> None:
        """Write this worker's numbers and failure flag behind the gradients."""
        if failed:
            self.flat.zero_()
            self.flat[-1].fill_(1.0)
        elif numbers:
            self.flat[self._attached_start : self._attached_start + len(numbers)] = torch.stack(numbers).to(
                self.flat
            )

    def attached(self, count: int) -> Tensor:
        """The first `count` attached numbers; means over the workers after the reduction."""
        return self.flat[self._attached_start : self._attached_start + count].clone()

    def failures(self) -> Tensor:
        """Share of the workers that failed, after the reduction."""
        return self.flat[-1].clone()

    def clip(self, norm: float | None) -> None:
        """Clip the norms of the student's gradients and, separately, of the method's gradients to `norm`."""
        if norm is None:
            return
        for part in (self.flat[: self._student_end], self.flat[self._student_end : self._attached_start]):
            if part.numel():
                part.mul_((norm / (torch.linalg.vector_norm(part) + 1e-6)).clamp(max=1.0))


@dataclass
class LossRecord:
    """Losses since the last reading, on the device so that no step synchronises.

    Attributes:
        names: names of the terms.
        total: sum over `steps` of each raw term, in the order of `names`.
        failed: above 0 once any worker failed.
        bad_step: the first step at which a term was not finite, else `NEVER`.
        bad_terms: terms that were not finite at that step.
        steps: number of recorded steps.
    """

    names: tuple[str, ...]
    total: Tensor
    failed: Tensor
    bad_step: Tensor
    bad_terms: Tensor
    steps: int = 0

    @classmethod
    def empty(cls, names: tuple[str, ...], device: torch.device) -> LossRecord:
        """A record without steps."""
        zeros = torch.zeros(len(names), device=device)
        never = torch.full((), NEVER, dtype=torch.int64, device=device)
        return cls(
            names, zeros, torch.zeros((), device=device), never, torch.zeros_like(zeros, dtype=torch.bool)
        )

    def add(self, step: int, values: Tensor, failed: Tensor) -> None:
        """Add the terms of one step."""
        bad = ~torch.isfinite(values)
        at = torch.where(
            bad.any(), torch.full_like(self.bad_step, step), torch.full_like(self.bad_step, NEVER)
        )
        self.total += values
        self.failed += failed
        self.bad_terms = torch.where(at < self.bad_step, bad, self.bad_terms)
        self.bad_step = torch.minimum(self.bad_step, at)
        self.steps += 1
