"""Search space of a method: a domain for each parameter, which maps the unit interval to values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from distill.errors import UsageError

_FOLDER = Path(__file__).parent

Value = float | int | str | bool


class Domain(BaseModel):
    """Range or choices of one parameter. Exactly one of the fields is set.

    A value of `scale_log_uniform` multiplies the recipe's value, so that the same space can be used with every recipe.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    uniform: tuple[float, float] | None = Field(default=None, description="uniform between two numbers")
    log_uniform: tuple[float, float] | None = Field(default=None, description="uniform in the logarithm")
    scale_log_uniform: tuple[float, float] | None = Field(
        default=None, description="factor of the recipe's value, uniform in the logarithm"
    )
    int_uniform: tuple[int, int] | None = Field(
        default=None, description="whole numbers, both bounds included"
    )
    choice: tuple[Value, ...] | None = Field(default=None, description="one of these values")

    @model_validator(mode="after")
    def _check_domain(self) -> Self:
        given = self.model_dump(exclude_none=True)
        if len(given) != 1:
            raise ValueError(f"a domain needs exactly one kind, has {sorted(given) or 'none'}")
        kind, bounds = next(iter(given.items()))
        if kind == "choice":
            if not bounds:
                raise ValueError("choice is empty, must have at least one value")
            return self
        low, high = bounds
        if not low < high:
            raise ValueError(f"{kind} is [{low}, {high}], the first bound must be below the second")
        if kind in ("log_uniform", "scale_log_uniform") and low <= 0:
            raise ValueError(f"{kind} starts at {low}, must start above 0")
        return self

    @property
    def logarithmic(self) -> bool:
        """Whether values are uniform in the logarithm."""
        return self.log_uniform is not None or self.scale_log_uniform is not None

    def bounds(self) -> tuple[float, float] | None:
        """Lower and upper bound, None for a choice."""
        for pair in (self.uniform, self.log_uniform, self.scale_log_uniform, self.int_uniform):
            if pair is not None:
                return float(pair[0]), float(pair[1])
        return None

    def holds(self, value: Value) -> bool:
        """Whether a value is in the domain."""
        bounds = self.bounds()
        if bounds is None:
            return value in (self.choice or ())
        return (
            isinstance(value, int | float) and not isinstance(value, bool) and bounds[0] <= value <= bounds[1]
        )

    def at(self, unit: float) -> Value:
        """Value at position `unit` in [0, 1) of the domain, with six significant digits."""
        if self.choice is not None:
            return self.choice[min(int(unit * len(self.choice)), len(self.choice) - 1)]
        if self.int_uniform is not None:
            first, last = self.int_uniform
            return min(first + int(unit * (last - first + 1)), last)
        bounds = self.bounds()
        assert bounds is not None  # a valid domain is a choice or has bounds
        low, high = bounds
        if self.logarithmic:
            return _rounded(math.exp(math.log(low) + unit * (math.log(high) - math.log(low))))
        return _rounded(low + unit * (high - low))

    def position(self, value: float | int) -> float:
        """Position in [0, 1] of a number: the inverse of `at`, for a domain with bounds that holds the value."""
        if self.int_uniform is not None:
            first, last = self.int_uniform
            return (value - first + 0.5) / (last - first + 1)
        bounds = self.bounds()
        assert bounds is not None  # choices have no position
        scale = math.log if self.logarithmic else float
        low, high, place = scale(bounds[0]), scale(bounds[1]), scale(value)
        return min(max((place - low) / (high - low), 0.0), 1.0)


class Space(BaseModel):
    """Domain of each parameter of one method. Parameters `recipe.*` change the training recipe instead of the method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    parameters: dict[str, Domain] = Field(default_factory=dict)

    def at(self, units: Sequence[float]) -> dict[str, Value]:
        """Configuration at a point of the unit cube, with coordinates in the order of `parameters`."""
        return {
            name: domain.at(unit) for (name, domain), unit in zip(self.parameters.items(), units, strict=True)
        }


class _SpaceFile(BaseModel):
    """The file of a method: its own parameters, and where it has those of other methods or of a preset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    parameters: dict[str, Domain] = Field(default_factory=dict, description="settings of the method")
    companions: tuple[str, ...] = Field(
        default=(),
        description="methods whose term this method adds to its own: weight and temperature have the domains of that method",
    )
    presets: dict[str, dict[str, Domain]] = Field(
        default_factory=dict,
        description="by the value of the setting `preset`: domains that differ, or are added",
    )


def load_space(
    method: str, installed: Mapping[str, Mapping[str, Any]] = {}, config: Mapping[str, Any] = {}
) -> Space:
    """Search space of a method: the recipe's parameters, which are the same for all methods, and the method's own.

    A combined method `a+b` has the parameters of both, as `a.parameter` and `b.parameter`, without those of companions.

    Args:
        method: name of the method.
        installed: search spaces of methods from other packages, by name.
        config: fixed settings; `preset` chooses the domains of a preset.

    Raises:
        UsageError: the method has no search space.
    """
    parts = method.split("+")
    if len(parts) == 1:
        own = _own_parameters(method, installed, config.get("preset"))
        return Space(method=method, parameters={**_recipe(), **own, **_companions(method, installed)})
    parameters = {
        f"{part}.{name}": domain
        for part in parts
        for name, domain in _own_parameters(part, installed, config.get(f"{part}.preset")).items()
        if not name.startswith("recipe.")
    }
    return Space(method=method, parameters={**_recipe(), **parameters})


def _own_parameters(
    method: str, installed: Mapping[str, Mapping[str, Any]], preset: object
) -> dict[str, Domain]:
    if method in installed:
        return space_from(method, installed[method]).parameters
    file = _file(method)
    return {**file.parameters, **file.presets.get(str(preset), {})}


def _companions(method: str, installed: Mapping[str, Mapping[str, Any]]) -> dict[str, Domain]:
    """Weight and temperature of each companion, with the domains that they have in the companion's own space."""
    found = {}
    for companion in () if method in installed else _file(method).companions:
        domains = _file(companion).parameters
        found[f"{companion}_weight"] = domains[f"{companion}_weight"]
        found[f"{companion}_temperature"] = domains["temperature"]
    return found


@cache
def _file(method: str) -> _SpaceFile:
    path = _FOLDER / "methods" / f"{method}.yaml"
    if path not in (_FOLDER / "methods").glob("*.yaml"):  # refuses a name with a path in it
        raise UsageError(
            f"method '{method}' has no search space; give it a `space` in the sweep file or in its class"
        )
    return _SpaceFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@cache
def _recipe() -> dict[str, Domain]:
    text = (_FOLDER / "recipe.yaml").read_text(encoding="utf-8")
    return space_from("recipe", yaml.safe_load(text)).parameters


def space_from(method: str, parameters: Mapping[str, Any]) -> Space:
    """Search space from the `space` section of a sweep file."""
    return Space.model_validate({"method": method, "parameters": parameters})


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
