"""Methods of a sweep, their settings and search spaces, checked against the catalogue. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jsonschema
from pydantic import ValidationError

from distill.catalogue.reader import load_catalogue
from distill.errors import UsageError, nearest, unknown
from distill.recipe import COHORT_SETTINGS, Recipe
from distill.relative_weights import PREFIX, split_balanced, weight_name
from distill.validation_text import violated_rule, violated_schema_rule, violation
from orchestrator.planning.config import MethodSelection
from orchestrator.planning.sampler import Params
from search_spaces import Domain, Space, load_space, space_from

STUDENT = "student"
"""The method without a teacher, with which all others are compared."""

_SHARED = (*COHORT_SETTINGS, "sliding_window")
"""Settings of the recipe that are the same for all trials that train together."""


def method_family(name: str) -> str:
    """Family of a method, as on the leaderboard. A combined method has the family of its first part."""
    return str(load_catalogue().methods[name.split("+")[0]].card["family"])


def needs_teacher(name: str) -> bool:
    """Whether a method uses the teacher's output."""
    methods = load_catalogue().methods
    return any("teacher" in methods[part].card["needs"] for part in name.split("+"))


def method_space(choice: MethodSelection) -> Space:
    """Search space of a study, from the sweep file or from search_spaces/methods, without the settings that are fixed."""
    methods = load_catalogue().methods
    installed = {name: entry.space for name, entry in methods.items() if entry.space is not None}
    space = (
        load_space(choice.name, installed, choice.config)
        if choice.space is None
        else space_from(choice.name, choice.space)
    )
    fixed = {name.removeprefix(PREFIX) for name in choice.config}
    free = {n: domain for n, domain in space.parameters.items() if n.removeprefix(PREFIX) not in fixed}
    return space.model_copy(update={"parameters": free})


def untuned(methods: Sequence[MethodSelection]) -> dict[str, tuple[str, ...]]:
    """The recipe's parameters, by title of a method, that it does not search as the student alone does.

    A `space` in the sweep file replaces the whole search space, so it may lack them, have other ranges, or have more.
    """
    found: dict[str, tuple[str, ...]] = {}
    spaces = [(choice, method_space(choice).parameters) for choice in methods]
    student = next((space for choice, space in spaces if choice.name == STUDENT), None)
    if student is None:
        return {}
    for choice, space in spaces:
        names = {name for name in {*space, *student} if name.startswith("recipe.")}
        differing = tuple(sorted(name for name in names if space.get(name) != student.get(name)))
        if differing:
            found[choice.title] = differing
    return found


def untuned_sentences(found: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence for the methods with the same `untuned` parameters."""
    by_names: dict[tuple[str, ...], list[str]] = {}
    for title, names in found.items():
        by_names.setdefault(tuple(names), []).append(title)
    return [
        f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not searched by {', '.join(titles)} as by the student "
        "alone, so these methods are not tuned equally"
        for names, titles in by_names.items()
    ]


def apply_params(
    params: Params, method_config: Mapping[str, Any], recipe: Recipe, space: Space
) -> tuple[dict[str, Any], Recipe]:
    """Settings of the method and recipe of a trial. A `recipe.*` parameter replaces or scales the recipe's value."""
    settings = dict(method_config)
    changes: dict[str, Any] = {}
    for name, value in params.items():
        field = name.removeprefix("recipe.")
        if field == name:
            settings[name] = value
            continue
        domain = space.parameters.get(name)
        if domain is not None and domain.scale_log_uniform is not None:
            value = float(f"{getattr(recipe, field) * float(value):.6g}")
        changes[field] = value
    return settings, Recipe.model_validate({**recipe.model_dump(), **changes})


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


def check_space(name: str, space: Space, recipes: Iterable[Recipe]) -> None:
    """Check a method's search space: the names of its parameters, and both bounds or all choices of each domain.

    Args:
        name: the method.
        space: its search space.
        recipes: by which its students may train; a `recipe.*` parameter changes one of them.

    Raises:
        UsageError: neither the method nor the recipe has such a parameter, it cannot be searched, or a value is out of
            range.
    """
    for key, domain in space.parameters.items():
        if key.startswith("recipe."):
            _check_recipe_domain(name, key, domain, recipes)
            continue
        schema = _schema(name, key)
        for value in domain.choice or domain.bounds() or ():
            rule = _violated_rule(schema, value)
            if rule is not None:
                raise UsageError(f"method '{name}': its space for {key} has {value!r}, {rule}")


def _check_recipe_domain(name: str, key: str, domain: Domain, recipes: Iterable[Recipe]) -> None:
    """Check the domain of a parameter of the recipe by the recipes that its ends, its middle or its choices make."""
    field = key.removeprefix("recipe.")
    if field not in Recipe.model_fields:
        raise unknown("recipe parameter", key, [f"recipe.{field}" for field in Recipe.model_fields])
    if field in _SHARED:
        raise UsageError(
            f"method '{name}': its space has {key}, which cannot be searched, because all students of a pair are trained "
            f"and scored on the same pictures; take it out, or make a pair with another recipe for each value"
        )
    space = Space(method=name, parameters={key: domain})
    for recipe in recipes:
        for value in domain.choice or map(domain.at, (0.0, 0.4, 1.0)):
            try:
                apply_params({key: value}, {}, recipe, space)
            except ValidationError as error:
                rule = violated_rule(error.errors()[0], Recipe)
                raise UsageError(f"method '{name}': its space for {key} has {value!r}, {rule}") from None
            except TypeError:
                raise UsageError(
                    f"method '{name}': its space for {key} has factors, and the recipe has {getattr(recipe, field)!r}; "
                    "give the values themselves, with uniform, log_uniform or choice"
                ) from None


def method_faults(
    choice: MethodSelection, recipes: Iterable[Recipe]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is wrong with a method's name, settings and search space: keys below the method, and the message.

    Args:
        choice: the method in a sweep file.
        recipes: by which its students may train.
    """
    try:
        check_method_name(choice.name)
    except UsageError as error:
        yield ("name",), str(error)
        return
    try:
        check_settings(choice.name, choice.config)
    except UsageError as error:
        yield ("config",), str(error)
    try:
        check_space(choice.name, method_space(choice), recipes)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            keys = ("space", *found["loc"][1:])
            yield keys, _domain_fault(found, ".".join(map(str, keys)))
    except UsageError as error:
        yield ("space",), str(error)


def _domain_fault(found: Any, key: str) -> str:
    """The message of pydantic's error about a domain of a `space`."""
    kinds = list(Domain.model_fields)
    if found["type"] == "extra_forbidden":
        close = nearest(str(found["loc"][-1]), kinds, 1)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        return f"unknown key '{key}'{hint} Known here: {', '.join(kinds)}."
    if found["type"] in ("model_type", "model_attributes_type"):
        return f"{violation(found, key, None)} such as {{log_uniform: [0.1, 10]}}"
    return violation(found, key, Space)


def all_settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting with which a method is built; a weight relative to the task loss counts as the weight."""
    return used_settings(name, {setting.removeprefix(PREFIX): value for setting, value in given.items()})


def used_settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting with which a method is built: the given ones, and the defaults of the others.

    A weight relative to the task loss keeps its own name, because its value is known in the training only.
    """
    schemas = {setting: schema for setting, (schema, _) in _settings(name).items()}
    found = {
        setting: schema["combined_default"]
        if "+" in name and "combined_default" in schema
        else schema.get("default")
        for setting, schema in schemas.items()
        if PREFIX + setting not in given
    } | {setting: value for setting, value in given.items() if value is not None}
    for setting, schema in schemas.items():
        part = setting[: setting.rfind(".") + 1]
        if setting not in found or given.get(setting) is not None:
            continue
        for other, defaults in schema.get("default_by", {}).items():
            found[setting] = defaults[found[part + other]]
        if "default_from" in schema:
            found[setting] = found[part + schema["default_from"]]
    return found


def used_values(method: str, given: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Every setting of a method, and every setting of a recipe as `recipe.NAME`, with the value used."""
    flat = _flat("recipe", recipe.model_dump(mode="json", exclude_none=True))
    return {**used_settings(method, given), **dict(flat)}


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, value


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
