"""Base class of methods' settings, and readable errors for invalid values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict

from distill.errors import UsageError, unknown
from distill.validation_text import violated_rule


class MethodConfig(BaseModel):
    """Settings of a method. Every field has a description, a default and a range.

    Fields that end in `_weight` are the factors of the method's loss terms; a term of weight 0 is not computed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


C = TypeVar("C", bound=MethodConfig)


def parse_config(owner: str, config_type: type[C], values: Mapping[str, Any]) -> C:
    """Validate settings; raises `UsageError` with value and rule for the first invalid one."""
    try:
        return config_type(**values)
    except pydantic.ValidationError as error:
        raise _explained(owner, setting_names(config_type), error) from error


def setting_names(config_type: type[MethodConfig]) -> list[str]:
    """Names of all settings; a combination's are `<method>.<setting>`."""
    names = []
    for name, field in config_type.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, MethodConfig):
            names += [f"{name}.{inner}" for inner in setting_names(part)]
        else:
            names.append(name)
    return names


def _explained(owner: str, names: Iterable[str], error: pydantic.ValidationError) -> UsageError:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return unknown(f"method '{owner}': setting", name, names)
    return UsageError(f"method '{owner}': {name} is {first['input']!r}, {violated_rule(first)}")
