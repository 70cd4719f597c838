"""A file of backbone weights gives every tensor of the backbone, whatever names it uses, or is refused."""

from __future__ import annotations

import argparse
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from distill.errors import UsageError
from distill.models import CheckpointMetadata, build_model, save_model
from distill.models.backbones import VARIANTS, check_weights
from distill.models.pretrained import LoadedWeights, WeightsPath
from distill.models.weight_layouts import is_computed, views, vocabularies
from tests.distill.models.backbone_families import FAMILIES

RESNET = {"channels": [8, 8, 16, 16]}
State = dict[str, Tensor]


def classifier(name: str, **options: Any) -> nn.Module:
    """timm's network with weights and statistics that no new network has."""
    torch.manual_seed(7)
    model = timm.create_model(name, **options)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not is_computed(name):
            tensor.data += 0.05 + 0.1 * torch.rand(tensor.shape)
    return model.eval()


@pytest.fixture(scope="module")
def resnet() -> State:
    return classifier("test_resnet", **RESNET).state_dict()


def write(folder: Path, document: Any) -> Path:
    torch.save(document, path := folder / "weights.pth")
    return path


def check(path: Path, name: str = "test_resnet", key: str | None = None, **options: Any) -> LoadedWeights:
    return check_weights(name, WeightsPath(path, key), options or (RESNET if name == "test_resnet" else None))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_of_every_family_comes_from_the_file(name: str, tmp_path: Path) -> None:
    options = FAMILIES[name]
    timm_name, defaults = VARIANTS.get(name, (name, {}))
    state = classifier(timm_name, **defaults, **options).state_dict()
    model = build_model(f"fcn-{name}", 3, write(tmp_path, state), head_channels=8, backbone_args=options)
    tensors = {
        key.removeprefix("model."): tensor
        for key, tensor in model.backbone.network.state_dict().items()
        if not is_computed(key)
    }
    for key, tensor in tensors.items():
        assert torch.equal(tensor, state[_plain(key, state)]), key
    assert model.backbone.loaded is not None
    assert model.backbone.loaded.loaded == len(tensors)


def _plain(key: str, state: State) -> str:
    """timm's name of a tensor of its feature extractors, which join two parts of a name by a line."""
    first, _, rest = key.partition(".")
    parts = first.split("_")
    joined = [f"{'_'.join(parts[:cut])}.{'_'.join(parts[cut:])}.{rest}" for cut in range(1, len(parts))]
    return next((name for name in [key, *joined] if name in state), key)


def mobilenet_v2() -> nn.Module:
    from torchvision.models import mobilenet_v2

    return mobilenet_v2(width_mult=0.5)


def efficientnet() -> nn.Module:
    from torchvision.models import efficientnet_b0

    return efficientnet_b0()


def convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt(
        [
            CNBlockConfig(8, 16, 2),
            CNBlockConfig(16, 24, 2),
            CNBlockConfig(24, 32, 2),
            CNBlockConfig(32, None, 2),
        ]
    )


def vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(64, 16, 4, 2, 24, 48)


TORCHVISION: dict[str, tuple[Callable[[], nn.Module], str, dict[str, Any]]] = {
    "torchvision's MobileNetV2": (mobilenet_v2, "mobilenetv2_050", {}),
    "torchvision's EfficientNet": (efficientnet, "efficientnet_b0", {}),
    "torchvision's ConvNeXt": (convnext, "convnext_atto", {"depths": (2,) * 4, "dims": (8, 16, 24, 32), "conv_mlp": False}),
    "torchvision's ViT": (
        vit,
        "vit_tiny_patch16_224",
        {"img_size": 64, "depth": 4, "embed_dim": 24, "num_heads": 2, "mlp_ratio": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("names", TORCHVISION)
def test_the_names_of_torchvision_are_those_tensors_of_timm_that_compute_the_same(names: str) -> None:
    make, timm_name, options = TORCHVISION[names]
    torch.manual_seed(0)
    theirs, ours = make().eval(), timm.create_model(timm_name, **options).eval()
    for tensor in [*theirs.parameters(), *theirs.buffers()]:
        if tensor.is_floating_point():
            tensor.data += 0.05 * torch.rand(tensor.shape)
    (found, *_) = vocabularies(state := theirs.state_dict())
    assert found.name == names
    ours.load_state_dict(found.translate(state, ours.state_dict().keys()))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def as_tonylins(state: State) -> State:
    """A torchvision MobileNetV2's tensors with the names of tonylins' repository, whose blocks are not nested."""
    renamed: State = {}
    for name, tensor in state.items():
        found = re.match(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)$", name)
        if found is None:
            renamed[name] = tensor
            continue
        block, place, rest = found.groups()
        # torchvision: [conv, norm, ReLU6], …, conv, norm; tonylins: the same layers in one sequence.
        outer, _, inner = place.partition(".")
        nested = 1 if block == "1" else 2
        flat = 3 * int(outer) + int(inner) if inner else 3 * nested + int(outer) - nested
        renamed[f"features.{block}.conv.{flat}.{rest}"] = tensor
    return renamed


def test_the_names_of_tonylins_are_those_tensors_of_torchvisions_in_one_sequence() -> None:
    state = mobilenet_v2().state_dict()
    wanted = timm.create_model("mobilenetv2_050").state_dict().keys()
    theirs = as_tonylins(state)
    (found, *_) = vocabularies(theirs)
    (expected, *_) = vocabularies(state)
    assert found.name == "tonylins' MobileNetV2"
    translated, reference = found.translate(theirs, wanted), expected.translate(state, wanted)
    assert translated.keys() == reference.keys()
    assert all(translated[name] is reference[name] for name in reference)


def as_lukemelas(state: State) -> State:
    """A timm EfficientNet's tensors with the names of lukemelas' package."""
    blocks = sorted({tuple(map(int, n.split(".")[1:3])) for n in state if n.startswith("blocks.")})
    numbers = {place: number for number, place in enumerate(blocks)}
    ends = {
        "conv_stem": "_conv_stem",
        "bn1": "_bn0",
        "conv_head": "_conv_head",
        "bn2": "_bn1",
        "classifier": "_fc",
    }
    wide = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2", "se": "_se"}  # fmt: skip
    narrow = {
        "conv_dw": "_depthwise_conv",
        "bn1": "_bn1",
        "conv_pw": "_project_conv",
        "bn2": "_bn2",
        "se": "_se",
    }
    found = {}
    for name, tensor in state.items():
        first, _, rest = name.partition(".")
        if first != "blocks":
            found[f"{ends[first]}.{rest}"] = tensor
            continue
        stage, index, step, rest = rest.split(".", 3)
        steps = wide if f"blocks.{stage}.{index}.conv_pwl.weight" in state else narrow
        found[
            f"_blocks.{numbers[int(stage), int(index)]}.{steps[step]}.{rest}".replace("_se.conv", "_se")
        ] = tensor
    return found


def test_the_names_of_lukemelas_are_those_of_timm_in_the_same_order(tmp_path: Path) -> None:
    state = classifier("tf_efficientnet_b0", num_classes=10).state_dict()
    renamed = as_lukemelas(state)
    (names, *_) = vocabularies(renamed)
    back = names.translate(renamed, state.keys())
    assert {key: tensor.data_ptr() for key, tensor in back.items()} == {
        key: tensor.data_ptr() for key, tensor in state.items()
    }
    assert check(write(tmp_path, renamed), "tf_efficientnet_b0").names == "lukemelas' EfficientNet"


PREFIXES = [
    "",
    "module.",
    "_orig_mod.",
    "backbone.",
    "encoder.",
    "module.backbone.",
    "model.encoder.",
    "backbone.body.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_before_the_backbone_is_no_obstacle(prefix: str, resnet: State, tmp_path: Path) -> None:
    head = {"decode_head.weight": torch.ones(2)} if "b" in prefix.partition("module.")[2] else {}
    outer = "module." if prefix.startswith("module.") else ""
    document = {prefix + key: t for key, t in resnet.items()} | {outer + key: t for key, t in head.items()}
    found = check(write(tmp_path, document))
    plain = check(write(tmp_path, resnet))
    assert found.loaded == plain.loaded
    assert found.unused == plain.unused + len(head)


@pytest.mark.parametrize(
    "nest", ["state_dict", "model", "model_state", "model_state_dict", "model_ema", "state_dict_ema", "ema"]
)
def test_weights_in_a_training_checkpoint_are_found(nest: str, resnet: State, tmp_path: Path) -> None:
    beside = {
        "args": argparse.Namespace(lr=0.1, output=tmp_path),
        "best_score": np.float64(0.5),
        "epoch": 3,
        "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]},
    }
    path = write(tmp_path, {nest: OrderedDict(resnet), **beside})
    assert check(path) == LoadedWeights(
        str(path),
        hashlib.sha256(path.read_bytes()).hexdigest(),
        nest,
        "timm",
        check(path).loaded,
        2,
        check(path).normalisation,
    )


def test_of_two_sets_of_weights_one_must_be_named(resnet: State, tmp_path: Path) -> None:
    averaged = {f"module.{key}": tensor + 1 for key, tensor in resnet.items()} | {
        "n_averaged": torch.tensor(3)
    }
    path = write(tmp_path, {"model": resnet, "model_ema": averaged, "epoch": 3})
    with pytest.raises(UsageError, match=r"several sets of weights \(model, model_ema\): give `key`"):
        check(path)
    with pytest.raises(UsageError, match="'model_emma' is not known; did you mean 'model_ema'"):
        check(path, key="model_emma")
    for key, shift in (("model", 0), ("model_ema", 1)):
        given = {"path": str(path), "key": key}
        model = build_model("fcn-test_resnet", 3, given, backbone_args=RESNET)
        assert torch.equal(
            model.backbone.network.state_dict()["conv1.0.weight"], resnet["conv1.0.weight"] + shift
        )


def test_weights_under_an_unknown_key_are_answered_with_that_key(resnet: State, tmp_path: Path) -> None:
    path = write(tmp_path, {"generator": resnet, "step": 1})
    with pytest.raises(UsageError, match=r"under a key of its own \(generator\): give `key`, generator"):
        check(path)
    assert check(path, key="generator").key == "generator"


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("resnet18", "resnet34", r"of its 180 tensors the file lacks 80: layer1\.2\.conv1\.weight.*nearest in the file"),
        ("resnet34", "resnet18", r"80 tensors more in the same stages, first layer1\.2\.conv1\.weight: .* deeper network"),
        ("resnet18", "resnet50", r"another shape in the file, first layer1\.0\.conv1\.weight: \(64, 64, 3, 3\), must be"),
        ("seresnet18", "resnet18", r"tensors more in the same stages, first layer1\.0\.se"),
    ],
)  # fmt: skip
def test_a_neighbour_of_the_architecture_is_refused(
    source: str, target: str, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, timm.create_model(source).state_dict())
    with pytest.raises(UsageError, match=message):
        check(path, target)


@pytest.mark.parametrize("lost", ["layer2.0.bn1.running_var", "layer3.0.bn2.weight", "layer4.0.conv1.weight"])
def test_one_lost_tensor_is_named_with_the_nearest(lost: str, resnet: State, tmp_path: Path) -> None:
    state = {key if key != lost else f"{key}_1": tensor for key, tensor in resnet.items()}
    with pytest.raises(UsageError, match=rf"the file lacks 1: {lost}; nearest in the file: {lost}_1"):
        check(write(tmp_path, state))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["layer2.0.bn1.running_var", "fc.bias"])
def test_a_weight_that_is_not_finite_is_refused(
    where: str, value: float, resnet: State, tmp_path: Path
) -> None:
    state = {**resnet, where: resnet[where].clone()}
    state[where][-1] = value
    with pytest.raises(UsageError, match=rf"nan or inf in 1 of {len(state)} tensors, first {where}"):
        check(write(tmp_path, state))


def test_a_model_of_this_program_starts_a_backbone_under_another_head(tmp_path: Path) -> None:
    torch.manual_seed(1)
    options: dict[str, Any] = {"head_channels": 8, "backbone_args": FAMILIES["mit_b0"]}
    first = build_model("segformer-mit_b0", 3, **options)
    save_model(path := tmp_path / "m.safetensors", first, CheckpointMetadata(("a", "b", "c")))
    second = build_model("fcn-mit_b0", 5, path, **options)
    theirs, ours = first.backbone.state_dict(), second.backbone.state_dict()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_a_whole_pickled_module_is_refused_with_its_class(tmp_path: Path) -> None:
    path = write(tmp_path, nn.Linear(2, 2))
    with pytest.raises(
        UsageError, match=r"as plain tensors cannot be read: it holds Python objects \(torch\.nn\.modules"
    ):
        check(path)


def test_safetensors_under_another_suffix_are_read(resnet: State, tmp_path: Path) -> None:
    save_file(resnet, path := tmp_path / "weights.pth")
    assert check(path).unused == 2


def test_the_views_of_a_file_are_all_of_it_and_the_backbones_in_it(resnet: State) -> None:
    state = {f"module.encoder.{key}": tensor for key, tensor in resnet.items()} | {
        "module.head.weight": torch.ones(1)
    }
    assert [(prefix, len(view)) for prefix, view in views(state)] == [
        ("", len(state)),
        ("encoder.", len(resnet)),
    ]
