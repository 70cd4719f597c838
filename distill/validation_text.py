"""Validation errors in English: which rule a value violates, such as `must be above 0`. One table for pydantic and JSON schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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


def violated_rule(error: ErrorDetails) -> str:
    """The rule that a value violates, from one of `pydantic.ValidationError.errors()`."""
    rule = _RULES.get(error["type"])
    if rule is not None:
        return rule.format_map(_shown(error.get("ctx", {})))
    return error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")


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
