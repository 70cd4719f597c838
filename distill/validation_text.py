"""Validation errors in English: which rule a value violates, such as `must be above 0`. One table for pydantic and JSON schema."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

if TYPE_CHECKING:
    import jsonschema
    from pydantic_core import ErrorDetails

_NUMBER, _WHOLE, _BOOLEAN = "must be a number", "must be a whole number", "must be true or false"
_TEXT, _LIST, _MAPPING = "must be text", "must be a list", "must be a mapping"
_RULES = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
    "union_tag_invalid": "{discriminator} is '{tag}', must be one of {expected_tags}",
    "union_tag_not_found": "must have the key {discriminator}",
    "finite_number": "must be a finite number",
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "bool_type": _BOOLEAN,
    "bool_parsing": _BOOLEAN,
    "string_type": _TEXT,
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "string_too_short": "must have {min_length} or more characters",
    "string_too_long": "must have {max_length} or fewer characters",
    "list_type": _LIST,
    "tuple_type": _LIST,
    "too_short": "the number of entries is {actual_length}, must be at least {min_length}",
    "too_long": "the number of entries is {actual_length}, must be at most {max_length}",
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "missing": "is missing",
}
"""pydantic's type of an error -> the rule, with the names of the error's context."""
_KEYWORDS = {
    "exclusiveMinimum": ("greater_than", "gt"),
    "minimum": ("greater_than_equal", "ge"),
    "exclusiveMaximum": ("less_than", "lt"),
    "maximum": ("less_than_equal", "le"),
    "enum": ("literal_error", "expected"),
    "pattern": ("string_pattern_mismatch", "pattern"),
}
"""Keyword of JSON schema -> pydantic's type of the same error, and the name of the bound in its context."""
_TYPES = {
    "number": _NUMBER,
    "integer": _WHOLE,
    "boolean": _BOOLEAN,
    "string": _TEXT,
    "array": _LIST,
    "object": _MAPPING,
    "null": "must be null",
}
"""Type of JSON schema -> the rule."""


_LONGEST = 200
_SCALARS = {int: ("whole numbers", "[1, 2]"), float: ("numbers", "[0.5, 2.0]"), str: ("texts", "[a, b]")}
"""Type of a list's entries -> the word for them, and an example of the list."""
_MOST_KEYS = 4


def booleans_as_numbers(
    written: Any, validated: Any, keys: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Keys and messages of booleans that pydantic took for the numbers 0 and 1.

    Args:
        written: plain values of a document.
        validated: the model or value that pydantic made of it.
        keys: keys of the value in the document.
    """
    if isinstance(written, bool) and isinstance(validated, int | float) and not isinstance(validated, bool):
        text = str(written).lower()
        yield (
            keys,
            f"{'.'.join(map(str, keys))} is {text}, must be a number; YAML reads yes, no, on and off as booleans",
        )
    elif isinstance(written, dict):
        for key, value in written.items():
            inner = validated.get(key) if isinstance(validated, dict) else getattr(validated, str(key), value)
            yield from booleans_as_numbers(value, inner, (*keys, key))
    elif isinstance(written, list) and isinstance(validated, list | tuple):
        for position, (value, inner) in enumerate(zip(written, validated, strict=False)):
            yield from booleans_as_numbers(value, inner, (*keys, position))


def violation(error: ErrorDetails, key: str, annotation: Any) -> str:
    """A sentence with a value and the rule that it violates, such as `lr is 0, must be above 0`.

    Args:
        error: one of `pydantic.ValidationError.errors()`.
        key: the setting as it is written.
        annotation: type of what was validated, usually a model.
    """
    rule, value = violated_rule(error, annotation), error.get("input")
    if error["type"] == "missing":
        return f"{key} {rule}"
    if isinstance(value, dict | list) or not isinstance(value, str | int | float | None):
        return f"{key}: {rule}"
    if error["type"] == "value_error" and not rule.startswith("must"):
        return f"{key} {rule}" if rule.startswith("is ") else f"{key}: {rule}"
    return f"{key} is {written(value)}, {rule}"


def written(value: Any) -> str:
    """A value as people write it in YAML, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def violated_rule(error: ErrorDetails, annotation: Any = None) -> str:
    """The rule that a value violates, from one of `pydantic.ValidationError.errors()`.

    With the type of what was validated, the rule for a list or a mapping says what is in it.
    """
    rule, value = _RULES.get(error["type"]), error.get("input")
    if rule in (_LIST, _MAPPING):
        return rule + (_contents(rule, type_at(annotation, error["loc"])) if annotation is not None else "")
    if rule == _TEXT and isinstance(value, bool):
        words = "yes, on or true" if value else "no, off or false"
        return f"{_TEXT}; YAML reads {words} as {written(value)}, so write it in quotes"
    if rule == _TEXT and isinstance(value, int | float):
        return f"{_TEXT}; write '{value}', in quotes"
    if rule is not None:
        return rule.format_map(_shown(error.get("ctx", {})))
    return error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")


def type_at(annotation: Any, location: Sequence[str | int]) -> Any:
    """Type of the value at a location of pydantic; None if it is not known.

    Parts of a location that name a member of a union are skipped.
    """
    found = [*_members(annotation)]
    for part in location:
        below = [inner for member in found for inner in _inner(member, part)]
        tagged = [member for member in found if _tag(member) == part]
        found = below or tagged or found
    return found[0] if len(found) == 1 else None


def _members(annotation: Any) -> Iterator[Any]:
    """The types of a union, without None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    elif annotation is not type(None):
        yield annotation


def _inner(annotation: Any, part: str | int) -> list[Any]:
    """Types of a field, an entry or a mapping's value; empty if there is none of that name."""
    fields, arguments = getattr(annotation, "model_fields", {}), get_args(annotation)
    if part in fields:
        return [*_members(fields[part].annotation)]
    origin = get_origin(annotation)
    if origin is tuple and isinstance(part, int):
        return [*_members(arguments[0 if Ellipsis in arguments else min(part, len(arguments) - 1)])]
    if isinstance(origin, type) and issubclass(origin, Mapping) and part not in ("[key]",):
        return [*_members(arguments[1])]
    return [*_members(arguments[0])] if origin is list and isinstance(part, int) else []


def _tag(annotation: Any) -> Any:
    """What pydantic puts into a location for a member of a union."""
    kind = getattr(annotation, "model_fields", {}).get("kind")
    return kind.default if kind is not None else None


def _contents(rule: str, annotation: Any) -> str:
    """` of whole numbers such as [1, 2]`, or ` with keys such as a, b`; empty if it is not known."""
    if rule == _MAPPING:
        keys = list(getattr(annotation, "model_fields", {}))
        return f" with keys such as {', '.join(keys[:_MOST_KEYS])}" if keys else ""
    arguments = get_args(annotation)
    entries = [member for argument in arguments[:1] for member in _members(argument)]
    if len(entries) != 1 or entries[0] not in _SCALARS:
        return ""
    words, example = _SCALARS[entries[0]]
    count = "" if Ellipsis in arguments or get_origin(annotation) is not tuple else f"{len(arguments)} "
    return f" of {count}{words} such as {example}"


def violated_schema_rule(error: jsonschema.ValidationError) -> str:
    """The rule that a value violates, from one of `jsonschema`'s errors.

    If the schema allows several types (`anyOf`), it is the rule of the type that the value has.
    """
    causes = [inner for inner in error.context or () if inner.validator != "type"]
    cause = causes[0] if causes else error
    keyword, bound = str(cause.validator), cause.validator_value
    if keyword in _KEYWORDS:
        kind, name = _KEYWORDS[keyword]
        return _RULES[kind].format_map(_shown({name: bound}))
    if keyword == "type" and isinstance(bound, str) and bound in _TYPES:
        return _TYPES[bound]
    return f"must be valid: {cause.message}"


def _shown(context: Mapping[str, Any]) -> dict[str, Any]:
    """Bounds as people write them: 1 for 1.0, and `'a', 'b'` for a list of values."""
    return {name: _bound(value) for name, value in context.items()}


def _bound(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return ", ".join(map(repr, value)) if isinstance(value, list) else value
