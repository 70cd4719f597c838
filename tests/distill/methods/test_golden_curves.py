"""30 steps of every method's training on generated scenes go as they went before."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distill.models import Output
from distill.training import Batch, Student, teacher_output
from tests.distill.methods.golden_curves import (
    CURVES,
    NAMES,
    STEPS,
    TOLERANCE,
    batches,
    curve,
    student,
    teacher,
)


def kept(name: str) -> list[float]:
    """The curve of a method in the file."""
    found: list[float] = json.loads(CURVES.read_text())[name]
    return found


def agree(found: list[float], expected: list[float]) -> bool:
    return found == pytest.approx(expected, rel=TOLERANCE, abs=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_methods_training_goes_as_the_one_kept(name: str) -> None:
    """A change of a loss's value, gradient or random draws shows here; after a wanted one write the curves anew."""
    assert len(kept(name)) == STEPS
    assert curve(student(name)) == pytest.approx(kept(name), rel=TOLERANCE, abs=0)


def test_the_student_alone_learns_on_the_generated_scenes() -> None:
    losses = kept("student")
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def wrong_value(term: Tensor) -> Tensor:
    return term + 0.003 * term.detach()


def wrong_gradient(term: Tensor) -> Tensor:
    return term + 0.003 * (term - term.detach())


def spoil(student: Student, term: str, wrong: Callable[[Tensor], Tensor]) -> Student:
    """The student with one of its terms wrong."""
    forward = student._forward

    def spoiled(batch: Batch) -> tuple[Output, dict[str, Tensor]]:
        output, terms = forward(batch)
        return output, {**terms, term: wrong(terms[term])}

    student._forward = spoiled  # type: ignore[method-assign]
    return student


@pytest.mark.parametrize("wrong", [wrong_value, wrong_gradient])
@pytest.mark.parametrize("name", NAMES)
def test_a_term_that_is_wrong_by_three_per_mille_shows(name: str, wrong: Callable[[Tensor], Tensor]) -> None:
    """Within three steps, for each term of each method, the task's loss included."""
    steps = 3
    right = student(name)
    assert agree(curve(right, steps), kept(name)[:steps])
    for term in right.losses.names:
        spoiled = spoil(student(name), term, wrong)
        assert not agree(curve(spoiled, steps), kept(name)[:steps]), f"{term} may be wrong unseen"


class CastsFromFloat64(TorchDispatchMode):
    """Records what float64 tensors are cast to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].dtype == torch.float64:
            self.found.add(result.dtype)
        return result


@pytest.mark.parametrize("name", NAMES)
def test_no_step_leaves_float64(name: str) -> None:
    """In float32 the processor's order of additions would decide whether a curve agrees with the one kept."""
    trained = student(name)
    images = batches()[0].images
    with CastsFromFloat64() as casts:
        teacher_output(teacher(), images, "fp32")
        curve(trained, 2)
    assert not casts.found & {torch.float32, torch.float16, torch.bfloat16}
