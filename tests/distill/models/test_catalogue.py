"""The committed catalogue says what the installed libraries say, and its cost estimates hold."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import timm
import torch

from distill.catalogue.head_costs import heads_with_cost
from distill.catalogue.reader import check_model_name, load_catalogue, model_cost
from distill.catalogue.survey import survey_backbone, survey_heads, survey_methods, versions
from distill.catalogue_entries import CATALOGUE
from distill.errors import UsageError
from distill.methods import list_methods, method_class
from distill.models import ModelOptions, build_model, list_heads
from distill.models.backbones import VARIANTS, list_backbones
from distill.models.costs import LEAST, count_cost, measure_latency

SAME_TIMM = pytest.mark.skipif(
    load_catalogue().versions["timm"] != timm.__version__, reason="the catalogue is of another timm release"
)


@SAME_TIMM
@pytest.mark.parametrize(
    "name",
    ["mit_b0", "resnet18", "test_vit", "test_maxvit", "mobilenetv2_100", "convformer_s18"],
)
def test_entries_equal_what_timm_says_now(name: str) -> None:
    assert load_catalogue().backbones[name] == survey_backbone(name)


@SAME_TIMM
def test_every_backbone_is_in_it() -> None:
    assert set(load_catalogue().backbones) == set(list_backbones())


def test_every_head_and_method_is_in_it_as_it_is_now() -> None:
    found = load_catalogue()
    assert {entry.name: entry for entry in survey_heads()} == dict(found.heads)
    assert set(found.methods) == set(list_methods())
    for entry in survey_methods():
        committed = found.methods[entry.name]
        assert committed.settings == method_class(entry.name).Config.model_json_schema()
        assert committed.card["title"] == entry.card["title"]


def test_every_variant_and_head_has_a_cost() -> None:
    for head in list_heads():
        for variant in VARIANTS:
            cost = model_cost(f"{head}-{variant}", {}, 19, 64, 64)
            assert cost.params > 0
            assert cost.flops_forward > 0


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("deeplabv3-resnet18", {}, (512, 1024)),
        ("deeplabv3-resnet101", {}, (512, 512)),
        ("deeplabv3-resnet50", {"output_stride": 16}, (512, 512)),
        ("deeplabv3-mobilenetv2_100", {}, (64, 64)),
        ("deeplabv3-mobilenetv2_100", {"output_stride": 32, "head_channels": 64}, (96, 160)),
        ("deeplabv3-mit_b0", {}, (512, 512)),
        ("segformer-mit_b0", {}, (64, 64)),
        ("segformer-mit_b4", {}, (512, 1024)),
        ("segformer-resnet18", {"head_channels": 64}, (128, 256)),
        ("segformer-vit_tiny_patch16_224", {}, (512, 1024)),
        ("segformer-swin_tiny_patch4_window7_224", {}, (512, 512)),
        ("segformer-convnext_tiny", {}, (480, 640)),
        ("deeplabv3plus-resnet50", {}, (512, 512)),
        ("deeplabv3plus-mobilenetv2_100", {}, (96, 160)),
        ("pspnet-resnet18", {}, (512, 1024)),
        ("pspnet-mit_b0", {}, (64, 64)),
        ("fcn-resnet101", {}, (512, 512)),
        ("fcn-vit_tiny_patch16_224", {"head_channels": 64}, (128, 256)),
        ("upernet-swin_tiny_patch4_window7_224", {}, (512, 512)),
        ("upernet-test_vit", {}, (128, 256)),
    ],
)
def test_estimated_cost_is_within_a_fifth_of_the_count(
    name: str, options: dict[str, int], size: tuple[int, int]
) -> None:
    counted = count_cost(ModelOptions(name, 19, **options), *size)  # type: ignore[arg-type]
    estimated = model_cost(name, options, 19, *size)
    assert estimated.params == counted.params
    assert estimated.flops_forward == pytest.approx(counted.flops_forward, rel=0.2)


def test_flops_are_two_for_a_multiply_accumulate() -> None:
    options = ModelOptions("segformer-test_resnet", 5, head_channels=8)
    small, large = count_cost(options, 64, 64), count_cost(options, 128, 64)
    assert large.flops_forward == pytest.approx(2 * small.flops_forward, rel=1e-6)
    assert small.params == sum(
        p.numel() for p in build_model("segformer-test_resnet", 5, head_channels=8).parameters()
    )
    convolution = torch.nn.Conv2d(3, 4, 1)
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        convolution(torch.zeros(1, 3, 5, 5))
    assert counter.get_total_flops() == 2 * 3 * 4 * 25


def test_cost_of_unknown_backbone_args_is_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match=r"count it with distill\.models\.costs"):
        model_cost("segformer-mit_b0", {"backbone_args": {"depths": [1, 1, 1, 1]}}, 19, 64, 64)
    assert model_cost("segformer-test_vit", {"backbone_args": {"img_size": 64}}, 19, 64, 64).params > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "must be written head-backbone"),
        ("segfomer-mit_b0", "did you mean 'segformer'"),
        ("segformer-mit_bo", "did you mean 'mit_b"),
        ("segformer-levit_128", "must have at least 4"),
    ],
)
def test_names_are_checked_without_torch_as_the_builder_checks_them(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_model_name(name)
    with pytest.raises(UsageError, match=message):
        build_model(name, 5)


def test_a_weights_tag_is_no_obstacle() -> None:
    assert check_model_name("segformer-resnet18.a1_in1k")[1].name == "resnet18"


def test_importing_and_reading_it_loads_neither_torch_nor_timm() -> None:
    program = (
        "import sys; from distill.catalogue.reader import load_catalogue; load_catalogue();"
        "sys.exit(sorted({'torch', 'timm', 'numpy', 'pandas', 'pydantic', 'ray'} & set(sys.modules)).__str__()"
        " if {'torch', 'timm', 'numpy', 'pandas', 'pydantic', 'ray'} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_file_stays_small_and_sorted_by_key() -> None:
    assert CATALOGUE.stat().st_size < 600_000
    assert all(math.isfinite(entry.gmacs) for entry in load_catalogue().backbones.values())


def test_every_surveyed_backbone_has_four_stages_and_a_cost_or_a_reason() -> None:
    surveyed = [e for e in load_catalogue().backbones.values() if e.channels or e.reason]
    assert len(surveyed) > 300
    for entry in surveyed:
        if entry.reason is None:
            assert len(entry.channels) == len(entry.strides) == 4, entry.name
            assert entry.gmacs > 0, entry.name
        else:
            assert len(entry.reason) > 20, entry.name


def test_head_formulas_cover_every_head() -> None:
    assert heads_with_cost() == list_heads()


def test_latency_is_measured_and_leaves_the_model_as_it_was() -> None:
    model = build_model("segformer-test_vit", 5, head_channels=8).train()
    latency = measure_latency(model, 32, 64, repeats=3, warmup=1)
    assert latency.median_ms > 0
    assert (latency.repeats, latency.height, latency.width, latency.device) == (3, 32, 64, "cpu")
    assert all(module.training for module in model.modules())
    assert measure_latency(model, 32, 64, seconds=0).repeats == LEAST
    with pytest.raises(UsageError, match="repeats is 0, must be at least 1"):
        measure_latency(model, 32, 64, repeats=0)


@SAME_TIMM
def test_versions_are_recorded() -> None:
    assert load_catalogue().versions.keys() == versions().keys()
