"""A hyper-parameter space: named domains, each a map from the unit interval to values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from distill.errors import UsageError

_FOLDER = Path(__file__).parent / "methods"

Value = float | int | str | bool


class Domain(BaseModel):
    """One parameter's range; exactly one kind is given.

    `scale_log_uniform` multiplies the recipe's own value, so that one space serves every recipe.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    uniform: tuple[float, float] | None = Field(default=None, description="even between two numbers")
    log_uniform: tuple[float, float] | None = Field(default=None, description="even in the logarithm")
    scale_log_uniform: tuple[float, float] | None = Field(
        default=None, description="factor on the recipe's value"
    )
    int_uniform: tuple[int, int] | None = Field(default=None, description="whole numbers, both ends included")
    choice: tuple[Value, ...] | None = Field(default=None, description="one of these")

    @model_validator(mode="after")
    def _one_sound_kind(self) -> Self:
        given = self.model_dump(exclude_none=True)
        if len(given) != 1:
            raise ValueError(f"a domain needs exactly one kind, has {sorted(given) or 'none'}")
        kind, bounds = next(iter(given.items()))
        if kind == "choice":
            if not bounds:
                raise ValueError("choice is empty, must name at least one value")
            return self
        low, high = bounds
        if not low < high:
            raise ValueError(
                f"{kind} is [{low}, {high}], the lower end must come first and lie below the upper"
            )
        if kind in ("log_uniform", "scale_log_uniform") and low <= 0:
            raise ValueError(f"{kind} starts at {low}, must start above 0")
        return self

    @property
    def logarithmic(self) -> bool:
        """Whether distances in this domain are ratios."""
        return self.log_uniform is not None or self.scale_log_uniform is not None

    def bounds(self) -> tuple[float, float] | None:
        """Lower and upper end, or None for a choice."""
        for pair in (self.uniform, self.log_uniform, self.scale_log_uniform, self.int_uniform):
            if pair is not None:
                return float(pair[0]), float(pair[1])
        return None

    def at(self, unit: float) -> Value:
        """The value that lies at `unit` in [0, 1) of this domain; six significant digits are kept."""
        if self.choice is not None:
            return self.choice[min(int(unit * len(self.choice)), len(self.choice) - 1)]
        if self.int_uniform is not None:
            first, last = self.int_uniform
            return min(first + int(unit * (last - first + 1)), last)
        bounds = self.bounds()
        assert bounds is not None  # a validated domain that is no choice has bounds
        low, high = bounds
        if self.logarithmic:
            return _rounded(math.exp(math.log(low) + unit * (math.log(high) - math.log(low))))
        return _rounded(low + unit * (high - low))


class Space(BaseModel):
    """The domains of one method, by parameter name; `recipe.*` names vary the training recipe instead."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    parameters: dict[str, Domain] = Field(default_factory=dict)

    def at(self, units: Sequence[float]) -> dict[str, Value]:
        """The configuration at a point of the unit cube, coordinates in the order of `parameters`."""
        return {
            name: domain.at(unit) for (name, domain), unit in zip(self.parameters.items(), units, strict=True)
        }


def load_space(method: str, installed: Mapping[str, Mapping[str, Any]] = {}) -> Space:
    """The space that ships for a method; a combined method `a+b` has both, each name under its method's.

    Args:
        method: its name.
        installed: spaces of methods that other packages bring along, by name.
    """
    parts = method.split("+")
    if len(parts) == 1:
        if method in installed:
            return space_from(method, installed[method])
        path = _FOLDER / f"{method}.yaml"
        if path not in _FOLDER.glob("*.yaml"):  # a name with a path in it is none of ours
            raise UsageError(
                f"method '{method}' has no search space; give it a `space` in the sweep file, or its class one"
            )
        return Space.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    parameters = {
        f"{part}.{name}": domain
        for part in parts
        for name, domain in load_space(part, installed).parameters.items()
    }
    return Space(method=method, parameters=parameters)


def space_from(method: str, parameters: Mapping[str, Any]) -> Space:
    """A space written in a sweep file, in place of the one that ships."""
    return Space.model_validate({"method": method, "parameters": parameters})


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
