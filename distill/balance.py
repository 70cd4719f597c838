"""Weights relative to the task's loss: a term that pulls as hard in one pair as in another, whatever its unit.

The setting `balanced.<term>_weight: c` stands for λ = c / ratio, where ratio is how much harder the raw term pulls at
the student's output than the task's loss does. It is measured while the first steps are trained, so a training needs
no other one before it, and goes on from a checkpoint to the bit.
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
    """The factor on each relative weight: how much harder the task's loss pulls than the raw term.

    A loss's pull is the norm of its gradient at the student's final logits. A term that does not pass through the
    logits is measured at the deepest of the fused feature and the stages that it reads, and so is the task's loss
    beside it. Norms are root mean squares over the steps, pictures and workers so far.

    Args:
        terms: the terms whose weights are relative; every other one has the factor 1.
    """

    def __init__(self, terms: frozenset[str], device: torch.device) -> None:
        self.terms = tuple(sorted(terms))
        self.squares = torch.zeros(2, len(self.terms), device=device)  # of the terms, of the task's loss

    def measures(self, step: int) -> bool:
        """Whether this step is one of those to measure."""
        return bool(self.terms) and step < STEPS

    def measure(self, output: Output, raw: Mapping[str, Tensor]) -> Tensor:
        """Squared norms of one forward pass, `2×terms`; keeps the graph.

        Args:
            output: the student's.
            raw: unweighted terms computed from it, `task` among them.
        """
        places = (output.logits, output.fused, *reversed(output.stages))
        task = _gradients(raw["task"], places)
        squares = torch.zeros_like(self.squares)
        for column, name in enumerate(self.terms):
            if name not in raw:
                continue
            own = _gradients(raw[name], places)
            for mine, tasks in zip(own, task, strict=True):
                if mine is not None and tasks is not None:
                    squares[0, column], squares[1, column] = _square(mine), _square(tasks)
                    break
        return squares

    def add(self, squares: Tensor) -> None:
        """Takes in the squares of one step, from all workers."""
        self.squares += squares.view_as(self.squares)

    def factor(self, term: str) -> Tensor | float:
        """The factor on a term's weight; 0 as long as nothing was measured, so in the very first step."""
        if term not in self.terms:
            return 1.0
        own, task = self.squares[:, self.terms.index(term)]
        return torch.where(own > 0, (task / own).sqrt(), torch.zeros_like(own))


def _gradients(loss: Tensor, places: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    if not loss.requires_grad:  # nothing to compare, as in a batch without a valid pixel
        return (None,) * len(places)
    return torch.autograd.grad(loss, places, retain_graph=True, allow_unused=True)


def _square(gradient: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=torch.float32)
    return norm.square()
