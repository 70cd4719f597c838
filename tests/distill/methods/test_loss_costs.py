"""The formulas of the losses' FLOPs count what a loss computes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from distill.catalogue.loss_costs import (
    LossShapes,
    ModelShapes,
    layer_numbers,
    loss_flops,
    methods_with_products,
)
from distill.methods import build_method, list_methods
from distill.models import ModelInfo, Output

STUDENT = ModelInfo("student-of-test", "cnn", 5, (8, 16, 24, 32), (4, 8, 8, 8), 24, 8, 8)
TEACHER = ModelInfo("teacher-of-test", "transformer", 5, (12, 20, 32, 64), (4, 8, 16, 32), 48, 4, 4)
SIZE, BATCH = (64, 96), 2
SETTINGS: dict[str, dict[str, Any]] = {
    "cirkd": {"pixel_weight": 0.1, "region_weight": 0.1, "pixel_draws": 64, "region_draws": 32},
    "cwd": {"where": "features"},
}
PARTS: list[dict[str, Any]] = [
    {"hakd_weight": 0, "keep_proj": True},
    {"hakd_weight": 0},
    {"preset": "summary", "hakd_weight": 0},
    {"proj_gradient": "projector"},
]
"""Settings of HeteroAKD that change what is projected."""


def shapes_of(info: ModelInfo) -> ModelShapes:
    return ModelShapes(info.channels, info.strides, info.fused_channels, info.fused_stride)


def output(info: ModelInfo, *, trained: bool) -> Output:
    def maps(channels: int, stride: int) -> torch.Tensor:
        return torch.randn(BATCH, channels, SIZE[0] // stride, SIZE[1] // stride, requires_grad=trained)

    first, second, third, fourth = (maps(c, s) for c, s in zip(info.channels, info.strides, strict=True))
    fused = maps(info.fused_channels, info.fused_stride)
    return Output((first, second, third, fourth), fused, maps(info.num_classes, info.logits_stride))


def counted(name: str, settings: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    given = SETTINGS.get(name, {}) if settings is None else settings
    method = build_method(name, student=STUDENT, teacher=TEACHER, num_classes=5, **given)
    labels = torch.zeros(BATCH, *SIZE, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        terms = method(output(STUDENT, trained=True), output(TEACHER, trained=False), labels)
        if terms:
            torch.stack(list(terms.values())).sum().backward()
    return counter.get_total_flops(), method.config.model_dump()


@pytest.mark.parametrize("name", list_methods())
def test_the_formula_of_a_loss_counts_its_products(name: str) -> None:
    flops, settings = counted(name)
    shapes = LossShapes(shapes_of(STUDENT), shapes_of(TEACHER), 5, BATCH, *SIZE)
    assert loss_flops(name, settings, shapes) == pytest.approx(flops, rel=0.05)
    assert (flops > 0) == (name in methods_with_products())


@pytest.mark.parametrize("given", PARTS)
def test_the_formula_of_heteroakd_counts_what_is_projected(given: dict[str, Any]) -> None:
    flops, settings = counted("heteroakd", given)
    shapes = LossShapes(shapes_of(STUDENT), shapes_of(TEACHER), 5, BATCH, *SIZE)
    assert loss_flops("heteroakd", settings, shapes) == pytest.approx(flops, rel=0.05)


FEW = 400_000
"""Numbers of layers that are not worth counting: 5 MB with gradient and optimiser."""


@pytest.mark.parametrize("name", list_methods())
def test_the_numbers_that_a_methods_own_layers_keep_are_counted(name: str) -> None:
    student = replace(STUDENT, channels=(64, 128, 256, 512), fused_channels=256)
    teacher = replace(TEACHER, channels=(256, 512, 1024, 2048), fused_channels=512)
    with torch.device("meta"):
        method = build_method(name, student=student, teacher=teacher, num_classes=5, **SETTINGS.get(name, {}))
    shapes = LossShapes(shapes_of(student), shapes_of(teacher), 5, BATCH, *SIZE)
    found = layer_numbers(name, method.config.model_dump(), shapes)
    trained = sum(each.numel() for each in method.parameters())
    assert found.trained == pytest.approx(trained, rel=0.05, abs=FEW)
    assert found.remembered == pytest.approx(
        sum(each.numel() for each in method.buffers()), rel=0.05, abs=FEW
    )


def test_the_losses_of_a_combination_add_up() -> None:
    shapes = LossShapes(shapes_of(STUDENT), shapes_of(TEACHER), 5, BATCH, *SIZE)
    each = {name: counted(name)[1] for name in ("cwd", "mgd")}
    joined = {f"{name}.{key}": value for name, config in each.items() for key, value in config.items()}
    expected = sum(loss_flops(name, config, shapes) for name, config in each.items())
    assert loss_flops("cwd+mgd", joined, shapes) == expected
    assert layer_numbers("cwd+mgd", joined, shapes) == layer_numbers("mgd", each["mgd"], shapes)
