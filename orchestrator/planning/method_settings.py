"""Checks what a sweep file chooses by name against the catalogue: methods and their settings. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jsonschema

from distill.catalogue.reader import load_catalogue
from distill.errors import UsageError, unknown
from distill.recipe import Recipe
from distill.relative_weights import PREFIX, split_balanced, weight_name
from search_spaces import Space


def method_family(name: str) -> str:
    """The family on the board; a combined method has its first part's."""
    return str(load_catalogue().methods[name.split("+")[0]].card["family"])


def needs_teacher(name: str) -> bool:
    """Whether a method reads the teacher's output."""
    methods = load_catalogue().methods
    return any("teacher" in methods[part].card["needs"] for part in name.split("+"))


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """A method's fixed settings; those of a combined method `a+b` are written `a.setting`.

    Raises:
        UsageError: an unknown method or setting (names the nearest), a value out of range, or a weight given both as
            it is and relative to the task's loss.
    """
    for key, value in settings.items():
        schema = _schema(name, key)
        fault = next(iter(_faults(schema, value)), None)
        if fault is not None:
            raise UsageError(f"method '{name}': {key} is {value!r}, must be {fault}")
    split_balanced(settings)


def check_space(name: str, space: Space) -> None:
    """A method's search space: its names, and both ends of each domain.

    Raises:
        UsageError: a parameter that neither the method nor the recipe has, or a domain that leaves its range.
    """
    for key, domain in space.parameters.items():
        if key.startswith("recipe."):
            if key.removeprefix("recipe.") not in Recipe.model_fields:
                raise unknown("recipe parameter", key, [f"recipe.{field}" for field in Recipe.model_fields])
            continue
        schema = _schema(name, key)
        for value in domain.choice or domain.bounds() or ():
            fault = next(iter(_faults(schema, value)), None)
            if fault is not None:
                raise UsageError(f"method '{name}': its space for {key} holds {value!r}, must be {fault}")


def default_weights(name: str) -> dict[str, float | None]:
    """The weights of a method's terms as its authors set them, or as a combination does, by the setting's name.

    None stands for a weight that follows from another setting, as CWD's does from where it compares.
    """
    key = "combined_default" if "+" in name else "default"
    return {
        setting: schema.get(key, schema.get("default"))
        for setting, (schema, _) in _settings(name).items()
        if setting.endswith("_weight")
    }


def check_method_name(name: str) -> None:
    """One method, or several joined by `+`.

    Raises:
        UsageError: nobody registered it; names the nearest.
    """
    methods = load_catalogue().methods
    for part in name.split("+"):
        if part not in methods:
            raise unknown("method", part, methods)


Schema = Mapping[str, Any]


def _settings(method: str) -> dict[str, tuple[Schema, Schema]]:
    """Setting → its JSON schema and the whole one it stands in; a combination's are written `part.setting`."""
    check_method_name(method)
    methods = load_catalogue().methods
    return {
        (f"{part}." if "+" in method else "") + field: (schema, methods[part].settings)
        for part in method.split("+")
        for field, schema in methods[part].settings.get("properties", {}).items()
    }


def _schema(method: str, setting: str) -> Schema:
    """The JSON schema of one setting; that of a relative weight is the weight's."""
    plain, known = setting.removeprefix(PREFIX), _settings(method)
    if plain not in known:
        raise unknown(f"setting of method '{method}'", plain, known)
    if plain != setting:
        weight_name(setting)
    schema, whole = known[plain]
    return {**schema, "$defs": whole.get("$defs", {})}


_RULES = {
    "exclusiveMinimum": "above {}",
    "minimum": "at least {}",
    "exclusiveMaximum": "below {}",
    "maximum": "at most {}",
    "type": "of type {}",
    "enum": "one of {}",
    "const": "{}",
}


def _faults(schema: Mapping[str, Any], value: Any) -> Iterable[str]:
    for error in jsonschema.Draft202012Validator(schema).iter_errors(value):
        causes = [inner for inner in error.context or () if inner.validator != "type"] or [error]
        cause = causes[0]
        yield _RULES.get(str(cause.validator), "valid: " + cause.message).format(cause.validator_value)
