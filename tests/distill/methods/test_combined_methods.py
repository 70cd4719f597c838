"""Methods joined by `+`."""

import pytest
import torch

from distill.errors import UsageError
from distill.methods import build_method, method_class
from distill.testing import CNN, NUM_CLASSES, TRANSFORMER, random_labels, random_output, tiny_model


def build(name, **config):
    student, teacher = tiny_model(CNN), tiny_model(TRANSFORMER)
    return build_method(name, student=student, teacher=teacher, num_classes=NUM_CLASSES, **config)


def losses(method):
    return method(random_output(CNN, seed=1), random_output(TRANSFORMER, seed=2), random_labels())


def test_a_combination_has_the_terms_and_weights_of_its_parts():
    both = build("kd+cwd", **{"kd.temperature": 2, "cwd.cwd_weight": 5})
    kd, cwd = build("kd", temperature=2), build("cwd", kd_weight=0)
    torch.testing.assert_close(losses(both), {"kd.kd": losses(kd)["kd"], "cwd.cwd": losses(cwd)["cwd"]})
    assert both.weights == {"kd.kd": 1, "cwd.cwd": 5, "cwd.kd": 0}
    assert both.picture_terms == {"cwd.cwd"}
    assert both.card.name == "kd+cwd"


def test_the_logits_distillation_beside_a_part_comes_back_when_it_is_asked_for():
    assert set(losses(build("at+cwd"))) == {"at.at", "cwd.cwd"}
    assert set(losses(build("at+cwd", **{"at.kd_weight": 1}))) == {"at.at", "at.kd", "cwd.cwd"}


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("kd+cw", {}, "method 'cw' is not known; did you mean 'cwd'"),
        ("kd+kd", {}, "names 'kd' twice"),
        ("student+kd", {}, "which has no terms"),
        ("kd+cwd", {"kd.temperature": 0}, "method 'kd.cwd': kd.temperature is 0, must be above 0"),
        (
            "kd+cwd",
            {"kd.temprature": 1},
            "setting 'kd.temprature' is not known; did you mean 'kd.temperature'",
        ),
        ("kd+cwd", {"temperature": 1}, "setting 'temperature' is not known; did you mean 'kd.temperature'"),
    ],
)
def test_a_wrong_combination_is_told_where_it_is_wrong(name, config, message):
    with pytest.raises(UsageError, match=message):
        build(name, **config)


def test_the_same_combination_is_the_same_class():
    assert method_class("kd+cwd") is method_class("kd+cwd")


def test_a_part_that_prepares_something_does_so_in_a_combination_too():
    config = {"heteroakd.teacher_projector": "pretrained"}
    method = build("cwd+heteroakd", **config)
    assert method.preparation == build("heteroakd", teacher_projector="pretrained").preparation
    assert build("kd+cwd").preparation is None
    with pytest.raises(UsageError, match="none was loaded"):
        losses(method)
    batches = ((random_output(TRANSFORMER, seed=seed), random_labels(seed=seed)) for seed in range(3))
    state = method.prepare(batches)
    for student in (method, build("cwd+heteroakd", **config)):
        student.use_prepared(state)
        assert losses(student)["heteroakd.hakd"].isfinite()
