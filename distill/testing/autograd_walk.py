"""A backward pass without torch's engine, which needs a CUDA driver for tensors on a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Gradients = list[Tensor | None]


class AutogradWalk:
    """Runs the nodes of an autograd graph one by one, each when the gradients of all its results have arrived.

    What a node has saved lives until the graph does, so a peak of memory measured in a walk is an upper bound.

    Attributes:
        node: name of the node that runs, such as `ConvolutionBackward0`; empty outside of a walk.
    """

    def __init__(self) -> None:
        self.node = ""

    def backward(
        self, loss: Tensor, gradient: Tensor | None = None, retain_graph: bool | None = None
    ) -> None:
        """`Tensor.backward`: add the gradients of all leaves to their `grad`."""
        for _ in self._run(loss, gradient):
            pass

    def grad(
        self,
        outputs: Tensor | Sequence[Tensor],
        inputs: Sequence[Tensor],
        retain_graph: bool | None = None,
        allow_unused: bool = False,
        **unused: Any,
    ) -> tuple[Tensor | None, ...]:
        """`torch.autograd.grad` of one output."""
        output = outputs if isinstance(outputs, Tensor) else outputs[0]
        wanted = {(tensor.grad_fn, tensor.output_nr): n for n, tensor in enumerate(inputs) if tensor.grad_fn}
        found: Gradients = [None] * len(inputs)
        for node, arrived in self._run(output, None, stop_at_leaves=True):
            for number, gradient in enumerate(arrived):
                if (node, number) in wanted:
                    found[wanted[node, number]] = gradient
        return tuple(found)

    @torch.no_grad()
    def _run(
        self, loss: Tensor, gradient: Tensor | None, stop_at_leaves: bool = False
    ) -> Iterator[tuple[Any, Gradients]]:
        root: Any = loss.grad_fn
        waiting = _uses(root)
        arrived: dict[Any, Gradients] = {root: [torch.ones_like(loss) if gradient is None else gradient]}
        ready = [root]
        while ready:
            node = ready.pop()
            given = arrived.pop(node)
            given.extend([None] * (len(node._input_metadata) - len(given)))
            yield node, given
            self.node = node.name()
            is_leaf = not node.next_functions
            empty = all(each is None for each in given)
            results = (None,) * len(node.next_functions)
            if not (empty or (is_leaf and stop_at_leaves)):
                answer = node(*given)
                results = answer if isinstance(answer, tuple) else (answer,)
            for (following, number), result in zip(node.next_functions, results, strict=False):
                if following is None:
                    continue
                _add(arrived.setdefault(following, []), number, result, following)
                waiting[following] -= 1
                if not waiting[following]:
                    ready.append(following)
            given = results = ()  # type: ignore[assignment]  # frees the gradients
        self.node = ""


def _uses(root: Any) -> Counter[Any]:
    """How many edges of the graph lead to each node."""
    uses: Counter[Any] = Counter()
    seen, stack = {root}, [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                uses[node] += 1
                if node not in seen:
                    seen.add(node)
                    stack.append(node)
    return uses


def _add(slots: Gradients, number: int, gradient: Tensor | None, node: Any) -> None:
    """Add a gradient to those that wait for a node, in shape and type of what it is the gradient of, as the engine does."""
    slots.extend([None] * (number + 1 - len(slots)))
    if gradient is None:
        return
    wanted = node._input_metadata[number]
    if tuple(gradient.shape) != tuple(wanted.shape):
        gradient = gradient.sum_to_size(tuple(wanted.shape))
    gradient = gradient.to(wanted.dtype)
    before = slots[number]
    slots[number] = gradient if before is None else before + gradient
