"""`compare: seconds`: the steps that a method's measured cost leaves it of the student's seconds. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from distill.errors import unknown
from distill.recipe import Recipe

if TYPE_CHECKING:
    from orchestrator.planning.config import MethodSelection, SweepConfig

Basis = Literal["steps", "seconds"]
"""What all methods of a board have equally much of: training steps, or seconds of training."""
STEPS: Basis = "steps"
SECONDS: Basis = "seconds"

Costs = Mapping[str, Mapping[str, float]]
"""Pair → method → seconds of one of its steps over those of the student alone."""


def _in_order(value: Any) -> Any:
    """The bases as a tuple, steps first, whether one or both are written."""
    return tuple(sorted(value, key=str, reverse=True)) if isinstance(value, list | tuple) else (value,)


def _one_or_both(bases: tuple[Basis, ...]) -> tuple[Basis, ...]:
    if not bases or len(set(bases)) < len(bases):
        raise ValueError(f"compare is {list(bases)}, must be steps, seconds, or [steps, seconds]")
    return bases


def _of_known_methods(
    costs: dict[str, dict[str, float]], info: ValidationInfo
) -> dict[str, dict[str, float]]:
    if not {"compare", "pairs", "methods"} <= info.data.keys():
        return costs  # another error is reported
    if costs and SECONDS not in info.data["compare"]:
        raise ValueError("step_costs are used by compare: seconds only; set compare, or leave them out")
    pairs = [pair.label for pair in info.data["pairs"]]
    methods = [method.title for method in info.data["methods"] if method.name != "student"]
    for pair, by_method in costs.items():
        if pair not in pairs:
            raise ValueError(str(unknown("pair", pair, pairs)))
        for method in by_method:
            if method not in methods:
                raise ValueError(str(unknown("method with a cost", method, methods)))
    return costs


Compare = Annotated[tuple[Basis, ...], BeforeValidator(_in_order), AfterValidator(_one_or_both)]
StepCosts = Annotated[
    dict[str, dict[str, Annotated[float, Field(ge=1, le=1e6)]]], AfterValidator(_of_known_methods)
]


def named(method: str, compare: str | None) -> str:
    """A method as it is listed beside others: `kd` at equal steps, `kd, seconds` at equal seconds."""
    return f"{method}, {SECONDS}" if compare == SECONDS else method


def recipe_within_seconds(recipe: Recipe, cost: float) -> Recipe:
    """The recipe with as many steps as the student's seconds allow, and its warm-up shortened with them.

    Args:
        recipe: that of the student alone.
        cost: seconds of one step of the method over those of the student alone, at least 1.
    """
    steps = max(1, math.floor(recipe.steps / cost))
    # A warm-up of 0 has a meaning of its own in the schedule one_cycle, so a warm-up does not become 0.
    warmup = max(1, round(recipe.warmup_steps * steps / recipe.steps)) if recipe.warmup_steps else 0
    return recipe.model_copy(update={"steps": steps, "warmup_steps": warmup})


def step_cost(config: SweepConfig, pair: str, method: MethodSelection) -> float | None:
    """Cost of a step of a method on a pair; 1 for the student alone, and None if it was not measured yet."""
    return 1.0 if method.name == "student" else config.step_costs.get(pair, {}).get(method.title)


def unmeasured(config: SweepConfig) -> list[tuple[str, str]]:
    """Pair and method of each cost that the plan needs and does not have."""
    if SECONDS not in config.compare:
        return []
    return [
        (pair.label, method.title)
        for pair in config.pairs
        for method in config.methods
        if step_cost(config, pair.label, method) is None
    ]


def with_step_costs(config: SweepConfig, costs: Costs) -> SweepConfig:
    """The config with those of these costs that it lacks and needs. A cost in the sweep file counts before a recorded one."""
    found = {pair: dict(by_method) for pair, by_method in config.step_costs.items()}
    for pair, method in unmeasured(config):
        if (cost := costs.get(pair, {}).get(method)) is not None:
            found.setdefault(pair, {})[method] = cost
    return config.model_copy(update={"step_costs": found})


def at_equal_steps(config: SweepConfig) -> SweepConfig:
    """The config with studies at equal steps only, as calibrations and measurements of costs train them."""
    return config.model_copy(update={"compare": (STEPS,), "step_costs": {}})
