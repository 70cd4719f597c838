"""Names, settings and the errors they raise."""

import re
from typing import get_args

import pytest
import yaml
from pydantic import ValidationError

from distill.errors import UsageError
from distill.methods import MethodConfig, build_method, list_methods, method_class, register
from distill.methods.registry import Card, Method, Need
from distill.testing import CNN, NUM_CLASSES, TRANSFORMER, random_labels, random_output, tiny_model
from tests import ROOT

SPACES = ROOT / "search_spaces" / "methods"


def build(name, **config):
    student, teacher = tiny_model(CNN), tiny_model(TRANSFORMER)
    return build_method(name, student=student, teacher=teacher, num_classes=NUM_CLASSES, **config)


def test_an_unknown_name_is_answered_with_the_nearest_known_one():
    with pytest.raises(UsageError, match="method 'heteroak' is not known; did you mean 'heteroakd'"):
        method_class("heteroak")


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("kd", {"temperature": 0}, "method 'kd': temperature is 0, must be above 0"),
        ("kd", {"kd_weight": -1}, "method 'kd': kd_weight is -1, must be at least 0"),
        ("kd", {"temperature": 1000}, "temperature is 1000, must be at most 100"),
        ("kd", {"temperature": "warm"}, "temperature is 'warm', must be a number"),
        ("kd", {"temprature": 1}, "setting 'temprature' is not known; did you mean 'temperature'"),
        ("heteroakd", {"tap": "stage5"}, "tap is 'stage5', must be one of 'stage1', 'stage2'"),
        ("heteroakd", {"preset": "stabel"}, "preset is 'stabel', must be one of 'paper' or 'stable'"),
        ("heteroakd", {"mixing": "perhaps"}, "mixing is 'perhaps', must be true or false"),
    ],
)
def test_a_wrong_setting_is_told_with_its_value_and_the_rule(name, config, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        build(name, **config)


def test_a_method_that_needs_a_teacher_says_so():
    with pytest.raises(UsageError, match="must have one; name a teacher model"):
        build_method("kd", student=tiny_model(CNN), teacher=None, num_classes=NUM_CLASSES)
    with pytest.raises(UsageError, match="must get one"):
        build("kd")(random_output(CNN), None, random_labels())


def test_a_model_of_another_number_of_classes_is_refused():
    with pytest.raises(UsageError, match="has 5 classes, must have the data set's 19"):
        build_method("kd", student=tiny_model(CNN), teacher=tiny_model(TRANSFORMER), num_classes=19)


def test_models_and_their_infos_build_the_same_method():
    infos = build_method(
        "heteroakd",
        student=tiny_model(CNN).info,
        teacher=tiny_model(TRANSFORMER).info,
        num_classes=NUM_CLASSES,
    )
    shapes = {name: value.shape for name, value in infos.state_dict().items()}
    assert shapes == {name: value.shape for name, value in build("heteroakd").state_dict().items()}


@pytest.mark.parametrize(("name", "message"), [("kd", "is taken by KD"), ("a+b", "must not: it joins")])
def test_a_name_is_registered_once_and_joins_nothing(name, message):
    card = Card(name, "A title", "Somebody", "Nowhere", 2025, "https://example.org", "logits", ())
    with pytest.raises(UsageError, match=message):
        register(type("Mine", (Method,), {"Config": MethodConfig, "card": card}))


def test_settings_cannot_be_changed_once_made():
    with pytest.raises(ValidationError):
        build("kd").config.temperature = 2


@pytest.mark.parametrize("name", list_methods())
def test_every_setting_has_a_description_a_default_and_a_range(name):
    for field_name, field in method_class(name).Config.model_fields.items():
        assert field.description, f"{field_name} has no description"
        assert not field.is_required(), f"{field_name} has no default"
        ranged = field.metadata or field.annotation is bool or get_args(field.annotation)
        assert ranged, f"{field_name} has no range"


@pytest.mark.parametrize("name", list_methods())
def test_every_card_names_a_paper_and_known_needs(name):
    card = method_class(name).card
    assert card.name == name
    assert card.url.startswith("https://")
    assert 2012 < card.year < 2100
    assert set(card.needs) <= set(get_args(Need))


@pytest.mark.parametrize("name", list_methods())
def test_every_search_space_stays_within_the_methods_ranges(name):
    space = yaml.safe_load((SPACES / f"{name}.yaml").read_text())
    assert set(space) == {"method", "parameters"}
    assert space["method"] == name
    config_type = method_class(name).Config
    for key, domain in space["parameters"].items():
        ((kind, values),) = domain.items()
        if key.startswith("recipe."):
            assert (key.removeprefix("recipe."), kind) in {
                ("lr", "scale_log_uniform"),
                ("weight_decay", "scale_log_uniform"),
            }
            continue
        assert kind in {"uniform", "log_uniform", "choice", "int_uniform"}
        assert kind == "choice" or (len(values) == 2 and values[0] < values[1])
        for value in values:
            assert getattr(config_type(**{key: value}), key) == value
