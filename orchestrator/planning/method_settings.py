"""Checks of methods, their settings and their search spaces against the catalogue. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema

from distill.catalogue.reader import load_catalogue
from distill.errors import UsageError, unknown
from distill.recipe import Recipe
from distill.relative_weights import PREFIX, split_balanced, weight_name
from distill.validation_text import violated_schema_rule
from search_spaces import Space


def method_family(name: str) -> str:
    """Family of a method, as on the leaderboard. A combined method has the family of its first part."""
    return str(load_catalogue().methods[name.split("+")[0]].card["family"])


def needs_teacher(name: str) -> bool:
    """Whether a method uses the teacher's output."""
    methods = load_catalogue().methods
    return any("teacher" in methods[part].card["needs"] for part in name.split("+"))


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Check a method's fixed settings. In a combined method `a+b` their names are `a.setting`.

    Raises:
        UsageError: a method or setting is unknown, a value is out of range, or a weight is given both as an absolute
            value and relative to the task loss.
    """
    for key, value in settings.items():
        rule = _violated_rule(_schema(name, key), value)
        if rule is not None:
            raise UsageError(f"method '{name}': {key} is {value!r}, {rule}")
    split_balanced(settings)


def check_space(name: str, space: Space) -> None:
    """Check a method's search space: the names of its parameters, and both bounds or all choices of each domain.

    Raises:
        UsageError: neither the method nor the recipe has such a parameter, or a value is out of range.
    """
    for key, domain in space.parameters.items():
        if key.startswith("recipe."):
            if key.removeprefix("recipe.") not in Recipe.model_fields:
                raise unknown("recipe parameter", key, [f"recipe.{field}" for field in Recipe.model_fields])
            continue
        schema = _schema(name, key)
        for value in domain.choice or domain.bounds() or ():
            rule = _violated_rule(schema, value)
            if rule is not None:
                raise UsageError(f"method '{name}': its space for {key} has {value!r}, {rule}")


def default_weights(name: str) -> dict[str, float | None]:
    """Default weights of a method's loss terms, by the name of the setting.

    A weight is None if it depends on another setting, as CWD's depends on `where`.
    """
    key = "combined_default" if "+" in name else "default"
    return {
        setting: schema.get(key, schema.get("default"))
        for setting, (schema, _) in _settings(name).items()
        if setting.endswith("_weight")
    }


def all_settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method with the defaults of those that are not given; a relative weight counts as the weight."""
    key = "combined_default" if "+" in name else "default"
    defaults = {
        setting: schema.get(key, schema.get("default")) for setting, (schema, _) in _settings(name).items()
    }
    return defaults | {setting.removeprefix(PREFIX): value for setting, value in given.items()}


def check_method_name(name: str) -> None:
    """Check the name of a method, or of several methods combined with `+`.

    Raises:
        UsageError: a method is not registered.
    """
    methods = load_catalogue().methods
    for part in name.split("+"):
        if part not in methods:
            raise unknown("method", part, methods)


Schema = Mapping[str, Any]


def _settings(method: str) -> dict[str, tuple[Schema, Schema]]:
    """JSON schema of each setting, and the schema that contains it. Settings of a combination are `part.setting`."""
    check_method_name(method)
    methods = load_catalogue().methods
    return {
        (f"{part}." if "+" in method else "") + field: (schema, methods[part].settings)
        for part in method.split("+")
        for field, schema in methods[part].settings.get("properties", {}).items()
    }


def _schema(method: str, setting: str) -> Schema:
    """JSON schema of one setting. A relative weight has the schema of the weight."""
    plain, known = setting.removeprefix(PREFIX), _settings(method)
    if plain not in known:
        raise unknown(f"setting of method '{method}'", plain, known)
    if plain != setting:
        weight_name(setting)
    schema, whole = known[plain]
    return {**schema, "$defs": whole.get("$defs", {})}


def _violated_rule(schema: Schema, value: Any) -> str | None:
    """The first rule of a schema that a value violates, None if it is valid."""
    error = next(iter(jsonschema.Draft202012Validator(schema).iter_errors(value)), None)
    return None if error is None else violated_schema_rule(error)
