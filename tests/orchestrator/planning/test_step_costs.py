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


def test_the_operations_of_each_loss_are_printed_and_a_loss_that_is_larger_takes_longer() -> None:
    found = estimate(make_plan(load_sweep("cityscapes")))
    rows = {(row["teacher"], row["student"]): row for row in found["step_flops"]}
    row = rows["deeplabv3-resnet101", "deeplabv3-mobilenetv2_100"]
    assert row["losses"]["af_dcd"] > 20 * row["student_flops"] > 0
    assert row["losses"]["kd"] == row["losses"]["student"] == 0
    text = render_estimate(found)
    [line] = [line for line in text.splitlines() if "af_dcd 59,889" in line and "mobilenetv2" in line]
    assert "2,557" in line
    assert "0.0639 to 1.56" in line, "seconds at 40 TFLOP/s: the student alone, and with af_dcd"


def test_fewer_students_fit_if_a_method_has_large_layers_of_its_own() -> None:
    def row(method: str) -> dict[str, object]:
        pair = "pairs=[{pair: deeplabv3_resnet101_to_deeplabv3_mobilenetv2, data: cityscapes}]"
        [found] = estimate(make_plan(load_sweep("cityscapes", [f"methods=[student, {method}]", pair])))[
            "memory"
        ]
        return found

    plain, large = row("kd"), row("mgd")
    assert plain["layers_bytes"] == 0
    assert (large["method"], large["state_bytes"]) == ("mgd", plain["state_bytes"])
    ours = [found["students_by_gib"]["24"] for found in (plain, large)]  # type: ignore[index]
    assert ours[1] < ours[0] / 10


def model(name: str, **options: object) -> Model:
    return Model(name, options, options)


def test_only_what_computes_another_result_than_before_gets_another_id() -> None:
    recipe = next(iter(load_sweep("smoke").recipes.values()))
    bf16 = recipe.model_copy(update={"precision": "bf16"})
    resnet, segformer = model("deeplabv3-resnet18", pretrained=True), model("segformer-mit_b0")
    assert result_versions([resnet], [("kd", {}, recipe), ("student", {}, bf16)]) == {}
    assert result_versions([resnet], [("kd+cirkd", {}, recipe)]) == {"versions": {"cirkd": 2}}
    default = {"versions": {"heteroakd": 2}}
    assert result_versions([resnet], [("heteroakd", {"tap": "fused"}, recipe)]) == default
    assert result_versions([resnet], [("heteroakd", {"preset": "literal"}, recipe)]) == {}
    assert result_versions([resnet], [("kd+heteroakd", {"kd.temperature": 2}, recipe)]) == default
    assert result_versions([resnet], [("kd+heteroakd", {"heteroakd.preset": "pixel"}, recipe)]) == {}
    assert result_versions([segformer]) == {"versions": {"segformer": 2}}
    assert result_versions([resnet], [("kd", {}, bf16)]) == {"versions": {"bf16 losses": 2}}


def test_pretrained_backbones_that_are_normalised_in_another_way_than_before_get_another_id() -> None:
    def versions(backbone: str, pretrained: bool | str) -> dict[str, dict[str, int]]:
        return result_versions([model(f"fcn-{backbone}", pretrained=pretrained)])

    changed = {"versions": {"normalisation": 2}}
    assert versions("tf_efficientnet_lite0", "lite.safetensors") == changed
    assert versions("tf_efficientnet_lite0", False) == {}
    assert versions("convnext_base.clip_laiona", True) == changed
    assert versions("convnext_base", True) == {}
