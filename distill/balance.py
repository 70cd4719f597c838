"""Weights relative to the task's loss, so that one value suits terms of different scale.

The setting `balanced.<term>_weight: c` means λ = c / ratio, where ratio is the gradient norm of the raw term at the
student's output over that of the task's loss. It is measured during the first training steps, so no separate training
is needed, and a run that resumes from a checkpoint has the same losses to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distill.relative_weights import STEPS

if TYPE_CHECKING:
    from distill.models.output import Output


class Balance:
    """Factor on each relative weight: gradient norm of the task's loss over that of the raw term.

    Gradients are taken at the student's final logits. A term that does not depend on the logits is measured at the
    deepest of the fused feature and the stages that it depends on, and so is the task's loss. A term that does not reach
    the student at all trains the method's own modules only, and keeps its weight. Norms are root mean squares over the
    steps, images and workers so far.

    Args:
        terms: terms with relative weights; all others have factor 1.
        device: device of the recorded norms.
    """

    def __init__(self, terms: frozenset[str], device: torch.device) -> None:
        self.terms = tuple(sorted(terms))
        self.squares = torch.zeros(
            2, len(self.terms), device=device
        )  # row 0: the terms; row 1: the task's loss

    def measures(self, step: int) -> bool:
        """Whether norms are measured at this step."""
        return bool(self.terms) and step < STEPS

    def measure(self, output: Output, raw: Mapping[str, Tensor]) -> Tensor:
        """Squared norms of one forward pass, `2×terms`; the autograd graph is retained.

        Args:
            output: the student's output.
            raw: unweighted terms computed from it, `task` included.
        """
        places = (output.logits, output.fused, *reversed(output.stages))
        task = _gradients(raw["task"], places)
        squares = torch.zeros_like(self.squares)
        for column, name in enumerate(self.terms):
            if name not in raw:
                continue
            own = _gradients(raw[name], places)
            if raw[name].requires_grad and all(gradient is None for gradient in own):
                squares[:, column] = 1.0
            for own_gradient, task_gradient in zip(own, task, strict=True):
                if own_gradient is not None and task_gradient is not None:
                    squares[0, column], squares[1, column] = _square(own_gradient), _square(task_gradient)
                    break
        return squares

    def add(self, squares: Tensor) -> None:
        """Add the squared norms of one step, reduced over all workers."""
        self.squares += squares.view_as(self.squares)

    def factor(self, term: str) -> Tensor | float:
        """Factor on a term's weight; 0 before the first measurement, so at the first step."""
        if term not in self.terms:
            return 1.0
        own, task = self.squares[:, self.terms.index(term)]
        return torch.where(own > 0, (task / own).sqrt(), torch.zeros_like(own))


def _gradients(loss: Tensor, places: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    if not loss.requires_grad:  # for instance a batch without a valid pixel
        return (None,) * len(places)
    return torch.autograd.grad(loss, places, retain_graph=True, allow_unused=True)


def _square(gradient: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=torch.float32)
    return norm.square()
