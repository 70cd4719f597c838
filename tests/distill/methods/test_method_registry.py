"""Names, settings and the errors they raise."""

import re
from typing import get_args

import pytest
from pydantic import ValidationError

from distill.errors import UsageError
from distill.methods import MethodConfig, build_method, list_methods, method_class, register
from distill.methods.readings import DEFAULT_READING, READINGS
from distill.methods.registry import Card, Method, Need
from distill.testing import CNN, NUM_CLASSES, TRANSFORMER, random_labels, random_output, tiny_model
from search_spaces import load_space


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
        (
            "heteroakd",
            {"preset": "stabel"},
            "preset is 'stabel', must be one of 'literal', 'paper', 'pixel', 'bernoulli'",
        ),
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


CHOICES = [(name, {}) for name in list_methods()] + [("heteroakd", {"preset": name}) for name in READINGS]


@pytest.mark.parametrize(("name", "config"), CHOICES)
def test_every_search_space_stays_within_the_methods_ranges(name, config):
    config_type = method_class(name).Config
    for key, domain in load_space(name, config=config).parameters.items():
        if key.startswith("recipe."):
            assert domain.scale_log_uniform is not None
            continue
        for value in domain.choice or domain.bounds():
            assert getattr(config_type(**{**config, key: value}), key) == value


@pytest.mark.parametrize("name", list_methods())
def test_a_default_weight_is_inside_the_space_that_a_sweep_searches(name):
    default = method_class(name).Config()
    for key, domain in load_space(name).parameters.items():
        if key.endswith("_weight") and getattr(default, key) is not None:
            assert domain.holds(getattr(default, key)), key


def test_each_reading_has_a_space_of_its_own_scale():
    spaces = {name: load_space("heteroakd", config={"preset": name}).parameters for name in READINGS}
    assert spaces["paper"] == spaces["literal"]
    assert spaces[DEFAULT_READING] == load_space("heteroakd").parameters
    assert "l2_weight" in spaces["summary"]
    assert all("l2_weight" not in space for name, space in spaces.items() if name != "summary")
    scales = {name: space["hakd_weight"].bounds() for name, space in spaces.items()}
    assert scales["pixel"] == scales["summary"] != scales["bernoulli"] != scales["literal"]
    assert scales["pixel"] != scales["literal"]
    combined = load_space("kd+heteroakd", config={"heteroakd.preset": "summary"}).parameters
    assert "heteroakd.l2_weight" in combined


def test_a_combination_searches_the_recipe_once_and_no_companion():
    assert list(load_space("cwd+skd").parameters) == [
        "recipe.lr", "recipe.weight_decay", "cwd.cwd_weight", "cwd.temperature", "cwd.where", "skd.skd_weight"
    ]  # fmt: skip


def test_a_method_of_another_package_searches_the_recipe_too():
    space = load_space("mine", {"mine": {"mine_weight": {"uniform": [0, 1]}}}).parameters
    assert list(space) == ["recipe.lr", "recipe.weight_decay", "mine_weight"]
    assert space["recipe.lr"] == load_space("student").parameters["recipe.lr"]
