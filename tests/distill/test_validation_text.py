"""The rule that a value violates has the same words, whether pydantic or JSON schema finds it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import Field, TypeAdapter, ValidationError

from distill.validation_text import violated_rule, violated_schema_rule

CASES = [
    (Annotated[float, Field(gt=0)], 0, "must be above 0"),
    (Annotated[int, Field(ge=1)], 0, "must be at least 1"),
    (Annotated[float, Field(lt=0.5)], 2, "must be below 0.5"),
    (Annotated[float, Field(le=1e9)], 1e10, "must be at most 1000000000"),
    (Annotated[str, Field(pattern="^a$")], "b", "must match the pattern ^a$"),
    (int, "x", "must be a whole number"),
    (float, "x", "must be a number"),
    (bool, "x", "must be true or false"),
    (str, 1, "must be text"),
    (tuple[int, ...], 1, "must be a list"),
    (dict[str, int], 1, "must be a mapping"),
]


@pytest.mark.parametrize(("kind", "value", "rule"), CASES)
def test_pydantic_and_json_schema_have_the_same_words(kind: Any, value: Any, rule: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    with pytest.raises(ValidationError) as raised:
        adapter.validate_python(value)
    assert violated_rule(raised.value.errors()[0]) == rule
    [error] = jsonschema.Draft202012Validator(adapter.json_schema()).iter_errors(value)
    assert violated_schema_rule(error) == rule


def test_a_choice_is_answered_with_the_known_values() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(Literal["a", "b"])
    with pytest.raises(ValidationError) as raised:
        adapter.validate_python("c")
    assert violated_rule(raised.value.errors()[0]) == "must be one of 'a' or 'b'"
    [error] = jsonschema.Draft202012Validator(adapter.json_schema()).iter_errors("c")
    assert violated_schema_rule(error) == "must be one of 'a', 'b'"


def test_an_optional_number_is_answered_with_the_rule_for_numbers() -> None:
    schema = TypeAdapter(Annotated[float, Field(gt=0)] | None).json_schema()
    [error] = jsonschema.Draft202012Validator(schema).iter_errors(-1)
    assert violated_schema_rule(error) == "must be above 0"
