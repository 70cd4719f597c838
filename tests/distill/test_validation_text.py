"""The rule that a value violates has the same words, whether pydantic or JSON schema finds it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from distill.validation_text import violated_rule, violated_schema_rule, violation

CASES = [
    (Annotated[float, Field(gt=0)], 0, "must be above 0"),
    (Annotated[int, Field(ge=1)], 0, "must be at least 1"),
    (Annotated[float, Field(lt=0.5)], 2, "must be below 0.5"),
    (Annotated[float, Field(le=1e9)], 1e10, "must be at most 1000000000"),
    (Annotated[str, Field(pattern="^a$")], "b", "must match the pattern ^a$"),
    (int, "x", "must be a whole number"),
    (float, "x", "must be a number"),
    (bool, "x", "must be true or false"),
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


class Section(BaseModel):
    """Settings of each type that a sweep file has."""

    seeds: tuple[int, ...] = ()
    size: tuple[int, int] | None = None
    scale: Annotated[tuple[float, float], Field()] = (1.0, 1.0)
    names: list[str] = []
    name: str = ""
    lr: float = 1.0
    inner: Section | None = None
    by_name: dict[str, tuple[int, ...]] = {}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"seeds": 2}, "k is 2, must be a list of whole numbers such as [1, 2]"),
        ({"size": "big"}, "k is 'big', must be a list of 2 whole numbers such as [1, 2]"),
        ({"scale": True}, "k is true, must be a list of 2 numbers such as [0.5, 2.0]"),
        ({"names": "a"}, "k is 'a', must be a list of texts such as [a, b]"),
        ({"inner": {"inner": {"seeds": 2}}}, "k is 2, must be a list of whole numbers such as [1, 2]"),
        ({"by_name": {"a": 2}}, "k is 2, must be a list of whole numbers such as [1, 2]"),
        ({"inner": 2}, "k is 2, must be a mapping with keys such as seeds, size, scale, names"),
        ({"lr": None}, "k is empty, must be a number"),
        ({"name": 5}, "k is 5, must be text; write '5', in quotes"),
        (
            {"name": False},
            "k is false, must be text; YAML reads no, off or false as false, so write it in quotes",
        ),
        ({"seeds": [1, "x"]}, "k is 'x', must be a whole number"),
    ],
)
def test_a_wrong_type_is_answered_in_the_words_of_the_file(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Section.model_validate(values)
    assert violation(raised.value.errors()[0], "k", Section) == expected
