"""Relative weights: a term pulls as hard as it is told to, whatever its unit and wherever it reads the student."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from distill.balance import Balance
from distill.errors import UsageError
from distill.methods import Card, build_method, list_methods, register
from distill.methods.kd import KD
from distill.methods.registry import _METHODS
from distill.models import build_model
from distill.models.output import Output
from distill.random_state import RandomState
from distill.recipe import Recipe
from distill.relative_weights import STEPS, split_balanced
from distill.training import Batch, Student, StudentSpec, teacher_output

CPU = torch.device("cpu")


def small_output() -> Output:
    """Stages, fused and logits of a model that is one chain, as every model is."""
    torch.manual_seed(0)
    first = torch.randn(2, 3, 4, 4, requires_grad=True)
    stages = [first]
    for _ in range(3):
        stages.append(stages[-1].tanh() * 2)
    fused = stages[-1].sin()
    return Output(stages=tuple(stages), fused=fused, logits=fused * 1.5)  # type: ignore[arg-type]


def factor(terms: dict[str, Tensor], output: Output, task: Tensor) -> dict[str, float]:
    balance = Balance(frozenset(terms), CPU)
    balance.add(balance.measure(output, {"task": task, **terms}))
    return {name: float(balance.factor(name)) for name in terms}


def test_a_term_that_pulls_a_hundred_times_as_hard_gets_a_hundredth_of_the_weight() -> None:
    output = small_output()
    task = output.logits.square().mean()
    assert factor({"kd": 100 * task}, output, task) == {"kd": pytest.approx(0.01, rel=1e-5)}


def test_a_term_on_features_is_measured_where_it_reads_them() -> None:
    output = small_output()
    task = output.logits.square().mean()
    at_fused = torch.autograd.grad(task, output.fused, retain_graph=True)[0].norm()
    at_third = torch.autograd.grad(task, output.stages[2], retain_graph=True)[0].norm()
    found = factor({"fused": 3 * output.fused.sum(), "third": 2 * output.stages[2].sum()}, output, task)
    count = output.fused.numel() ** 0.5
    assert found["fused"] == pytest.approx(float(at_fused) / (3 * count), rel=1e-5)
    assert found["third"] == pytest.approx(float(at_third) / (2 * count), rel=1e-5)


def test_a_term_without_a_gradient_is_left_out_rather_than_blown_up() -> None:
    output = small_output()
    task = output.logits.square().mean()
    assert factor({"kd": torch.zeros(())}, output, task) == {"kd": 0.0}


def test_a_term_that_trains_the_methods_own_modules_only_keeps_its_weight() -> None:
    """As the projectors' cross-entropy does whose gradient stops at the projector."""
    output = small_output()
    task = output.logits.square().mean()
    own = (torch.ones(3, requires_grad=True) * output.fused.detach().sum()).sum()
    assert factor({"proj": own, "kd": 4 * task}, output, task) == {
        "proj": 1.0,
        "kd": pytest.approx(0.25, rel=1e-5),
    }


@pytest.fixture
def scaled_kd() -> Iterator[str]:
    """KD in another unit: what differs between pairs and papers."""

    @register
    class Scaled(KD):
        card: ClassVar[Card] = Card(**{**vars(KD.card), "name": "scaled_kd"})

        def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
            return {name: 1024 * term for name, term in super().forward(student, teacher, labels).items()}

    yield "scaled_kd"
    del _METHODS["scaled_kd"]


def test_a_training_with_a_relative_weight_does_not_depend_on_the_terms_unit(scaled_kd: str) -> None:
    settings: dict[str, Any] = {"balanced.kd_weight": 0.5}
    one, other, fixed = (
        trained(method, given)
        for method, given in [("kd", settings), (scaled_kd, settings), (scaled_kd, {"kd_weight": 0.5})]
    )
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert any(not torch.allclose(a, b, rtol=1e-2) for a, b in
               zip(one.model.parameters(), fixed.model.parameters(), strict=True))  # fmt: skip


def test_the_weight_stands_once_it_is_measured() -> None:
    student = trained("kd", {"balanced.kd_weight": 0.5}, steps=STEPS)
    before = student.balance.factor("kd")
    for batch in batches(3):
        student.train_step(batch)
    assert torch.equal(torch.as_tensor(student.balance.factor("kd")), torch.as_tensor(before))
    raw, weighted = student.read_losses()
    assert weighted["kd"] == pytest.approx(0.5 * float(before) * raw["kd"])


@pytest.mark.parametrize("method", sorted(set(list_methods()) - {"student"}))
def test_every_weight_setting_is_named_after_its_term(method: str) -> None:
    """So `balanced.<term>_weight` is about that term, in every method."""
    info = build_model("deeplabv3-test_resnet", 4, head_channels=8).info
    built = build_method(method, student=info, teacher=info, num_classes=4)
    settings = {n.removesuffix("_weight") for n in type(built.config).model_fields if n.endswith("_weight")}
    assert settings == set(built.weights)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"balanced.temperature": 2.0}, "temperature.* must be a weight"),
        ({"balanced.kd_weight": 1.0, "kd_weight": 1.0}, "both given, must be one of them"),
    ],
)
def test_only_one_weight_can_be_relative_to_the_task(settings: dict[str, float], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        split_balanced(settings)


def batches(count: int) -> list[Batch]:
    with RandomState(7, CPU):
        teacher = build_model("segformer-test_vit", 4, head_channels=8).eval()
        found = []
        for number in range(count):
            images = torch.randn(2, 3, 32, 32)
            labels = torch.randint(0, 4, (2, 32, 32))
            output = teacher_output(teacher, images, "fp32")
            found.append(Batch(images, labels, torch.tensor([number, number]), output))
    return found


def trained(method: str, settings: dict[str, Any], steps: int = 6) -> Student:
    recipe = Recipe.model_validate(
        {"steps": 40, "batch_size": 2, "augmentation": {"crop": (32, 32)}, "lr": 0.01, "norm": "group"}
    )
    given = StudentSpec(
        "deeplabv3-test_resnet", {"head_channels": 8, "dropout": 0.0}, method, settings, recipe, 1, 4
    )
    teacher = build_model("segformer-test_vit", 4, head_channels=8).info
    student = Student(given, teacher, device=CPU)
    for batch in batches(steps):
        student.train_step(batch)
    student.check()
    return student
