"""What the plan says of memory, of losses' cost and of what cannot end; and which ids a changed result changes."""

from __future__ import annotations

import pytest

from distill.catalogue.reader import model_shapes
from distill.models import ModelOptions
from distill.models.model import plan_model
from orchestrator.planning.cost_estimate import estimate, render_estimate
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import Model, make_plan
from orchestrator.planning.result_versions import result_versions
from orchestrator.planning.step_costs import GIB

PRESETS_FOR_GPUS = ("cityscapes", "voc", "ade20k", "camvid")


@pytest.mark.parametrize(
    "name", ["segformer-mit_b0", "deeplabv3-resnet18", "upernet-resnet18", "pspnet-mit_b1"]
)
def test_the_shapes_of_a_model_are_known_without_building_it(name: str) -> None:
    shapes = model_shapes(name, {})
    card, plan = plan_model(ModelOptions(name, 19))
    assert (shapes.channels, shapes.strides) == (plan.channels, plan.strides)
    assert shapes.fused_channels == card.default_channels(plan.name, plan.channels[-1])


@pytest.mark.parametrize("preset", PRESETS_FOR_GPUS)
def test_the_memory_of_every_pair_of_a_preset_for_gpus_is_known(preset: str) -> None:
    found = estimate(make_plan(load_sweep(preset)))
    assert not found["memory_unknown"]
    for row in found["memory"]:
        assert row["total_bytes"] < 80 * GIB, row
        fits = [row["students_by_gib"][size] for size in ("24", "40", "80")]
        assert fits == sorted(fits)
        assert fits[-1] >= 1
    assert "students in 24/40/80 GiB" in render_estimate(found)


def test_a_loss_that_costs_more_than_the_network_is_in_the_estimate_and_is_warned_of() -> None:
    methods = ["methods=[student, {name: cirkd, config: {pool: 1}}]", "search.trials=0"]
    pair = ["pairs=[{pair: mit_b4_to_deeplabv3_resnet18, data: cityscapes}]"]
    exact = estimate(make_plan(load_sweep("cityscapes", [*methods, *pair])))
    pooled = estimate(
        make_plan(load_sweep("cityscapes", [methods[0].replace("pool: 1", "pool: 2"), *methods[1:], *pair]))
    )
    assert exact["worker_hours"] > 1.5 * pooled["worker_hours"]
    slow = ["recipes.cityscapes_cnn.steps=4000000"]
    warnings = estimate(make_plan(load_sweep("cityscapes", [*methods, *pair, *slow])))["warnings"]
    assert any("cirkd" in warning and "its loss is 8" in warning for warning in warnings), warnings
    assert any("years of one worker" in warning for warning in warnings)


def model(name: str, **options: object) -> Model:
    return Model(name, options, options)


def test_only_what_computes_another_result_than_before_gets_another_id() -> None:
    recipe = next(iter(load_sweep("smoke").recipes.values()))
    bf16 = recipe.model_copy(update={"precision": "bf16"})
    resnet, segformer = model("deeplabv3-resnet18", pretrained=True), model("segformer-mit_b0")
    assert result_versions([resnet], [("kd", recipe), ("student", bf16)]) == {}
    assert result_versions([resnet], [("kd+cirkd", recipe)]) == {"versions": {"cirkd": 2}}
    assert result_versions([segformer]) == {"versions": {"segformer": 2}}
    assert result_versions([resnet], [("kd", bf16)]) == {"versions": {"bf16 losses": 2}}


def test_pretrained_backbones_that_are_normalised_in_another_way_than_before_get_another_id() -> None:
    def versions(backbone: str, pretrained: bool | str) -> dict[str, dict[str, int]]:
        return result_versions([model(f"fcn-{backbone}", pretrained=pretrained)])

    changed = {"versions": {"normalisation": 2}}
    assert versions("tf_efficientnet_lite0", "lite.safetensors") == changed
    assert versions("tf_efficientnet_lite0", False) == {}
    assert versions("convnext_base.clip_laiona", True) == changed
    assert versions("convnext_base", True) == {}
