"""timm backbones as four feature maps."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from distill.device_errors import device_condition
from distill.errors import UsageError, unknown
from distill.models.families import Family, any_size_arguments, family_of
from distill.models.pretrained import LoadedWeights, WeightsPath, load_backbone, read_pretrained
from distill.models.timm_weights import timm_normalisation
from distill.models.weight_files import WeightFile
from distill.normalisation import IMAGENET, Normalisation, renormalise

# timm takes two seconds to import, so it is imported inside the functions that need it.

# Our names of backbones that timm builds under another name, with these arguments.
# mit_b0 to mit_b5: the encoder of SegFormer (Xie et al., NeurIPS 2021); MLPs 4 times as wide as their input.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    f"mit_b{size}": (f"pvt_v2_b{size}", {"mlp_ratios": (4, 4, 4, 4)}) for size in range(6)
}
_OURS = {
    "cache_dir", "checkpoint_path", "features_only", "feature_cls", "hf_hub_id", "in_chans", "num_classes",
    "out_indices", "output_stride", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
    "pretrained_strict", "scriptable",
}  # fmt: skip
_EVEN = 32  # images whose sides are multiples of 32 divide evenly at every stage
_CANNOT_BUILD = (TypeError, ValueError, AssertionError, NotImplementedError, KeyError, RuntimeError)


@dataclass(frozen=True)
class BackbonePlan:
    """Shapes of a backbone that is not built yet, and timm's arguments to build it.

    Attributes:
        name: as the user wrote it.
        timm_name: timm's name, with the weights tag if the user gave one.
        family: cnn or transformer.
        out_indices: which of timm's feature maps are the four stages.
        channels: channels of the four stages.
        strides: strides of the four stages.
        channels_last: whether timm returns the maps as B×H×W×C.
        output_stride: the output stride passed to timm; None keeps the backbone's own.
        arguments: the other arguments of `timm.create_model`.
    """

    name: str
    timm_name: str
    family: Family
    out_indices: tuple[int, ...]
    channels: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]
    channels_last: bool
    output_stride: int | None
    arguments: dict[str, Any]


class Backbone(nn.Module):
    """A timm network returning its four stages, each B×C×h×w.

    Attributes:
        plan: shapes, and timm's arguments.
        normalisation: what its weights were trained with; ImageNet's if they are random.
        loaded: origin of its weights, if they are from a file.
    """

    def __init__(
        self,
        plan: BackbonePlan,
        network: nn.Module,
        normalisation: Normalisation = IMAGENET,
        loaded: LoadedWeights | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.network = network
        self.normalisation = normalisation
        self.loaded = loaded

    def forward(self, images_b3hw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four stages of images that are normalised with ImageNet's statistics.

        Raises:
            UsageError: the backbone does not take images of this size.
        """
        try:
            maps = self.network(renormalise(images_b3hw, self.normalisation))
        except (AssertionError, RuntimeError) as error:
            height, width = images_b3hw.shape[-2:]
            uneven = height % _EVEN or width % _EVEN
            if device_condition(error) or not (uneven or isinstance(error, AssertionError)):
                raise
            why = str(error) or "it does not divide into windows"
            remedy = (
                f"Give it images whose sides are multiples of {_EVEN}, or choose another backbone"
                if uneven
                else f'Give it its size with backbone_args {{"img_size": [{height}, {width}]}}, or choose one '
                "of any size"
            )
            raise UsageError(
                f"backbone '{self.plan.name}' does not take images of {height}×{width}: {why}. {remedy}"
            ) from error
        if self.plan.channels_last:
            maps = [features.permute(0, 3, 1, 2).contiguous() for features in maps]
        return cast("tuple[Tensor, Tensor, Tensor, Tensor]", tuple(maps))


def list_backbones() -> list[str]:
    """All backbone names that `build_model` accepts after the dash: `VARIANTS` and timm's architectures."""
    import timm

    return [*VARIANTS, *timm.list_models()]


def backbone_family(name: str) -> Family:
    """The family of a backbone, found without building it."""
    architecture = _resolve(name)[1]
    return family_of(architecture, _timm_file(architecture))


def plan_backbone(name: str, backbone_args: dict[str, Any] | None, output_stride: int | None) -> BackbonePlan:
    """Find shapes and arguments by building the backbone on the meta device, which allocates no memory.

    Args:
        name: a MiT name, a timm architecture, or a timm architecture with a weights tag (`resnet50.a1_in1k`).
        backbone_args: extra arguments for timm's constructor; JSON values only.
        output_stride: 8 or 16 to dilate the last stages; None for the backbone's own.

    Raises:
        UsageError: the name is unknown (the message names the nearest), the backbone has fewer than four stages, or
            it does not support the arguments or the output stride.
    """
    arguments = dict(backbone_args or {})
    taken = sorted(_OURS & set(arguments))
    if taken:
        raise UsageError(
            f"backbone_args has {', '.join(taken)}, which build_model sets itself; leave it out or use "
            "build_model's own arguments"
        )
    try:
        key = json.dumps(arguments, sort_keys=True)
    except TypeError as error:
        raise UsageError(
            f"backbone_args must hold JSON values only (numbers, strings, lists): {error}"
        ) from error
    return _plan_cached(name, key, output_stride)


@lru_cache(maxsize=4096)
def _plan_cached(name: str, arguments_json: str, output_stride: int | None) -> BackbonePlan:
    timm_name, architecture, defaults = _resolve(name)
    file = _timm_file(architecture)
    arguments = {**any_size_arguments(file), **defaults, **_tuples(json.loads(arguments_json))}
    dilation = {} if output_stride is None else {"output_stride": output_stride}
    asked = f"output stride {output_stride}" if dilation else f"backbone_args {arguments_json}"
    try:
        info, layout = _probe(timm_name, {**arguments, **dilation})
        reductions = [int(stage["reduction"]) for stage in info.info]
    except _CANNOT_BUILD as error:
        raise UsageError(
            f"backbone '{name}' cannot be built with {asked}: {type(error).__name__}: {error}. Leave it out, "
            "or choose another backbone"
        ) from error
    indices = _four_stages(name, reductions)
    strides = tuple(reductions[index] for index in indices)
    channels = tuple(int(info.info[index]["num_chs"]) for index in indices)
    if output_stride is not None and strides[-1] != output_stride:
        raise UsageError(
            f"backbone '{name}' cannot be dilated to output stride {output_stride}: its last stage stays at "
            f"stride {strides[-1]}. Leave output_stride out, or choose a backbone such as resnet18"
        )
    return BackbonePlan(
        name=name,
        timm_name=timm_name,
        family=family_of(architecture, file),
        out_indices=indices,
        channels=cast("tuple[int, int, int, int]", channels),
        strides=cast("tuple[int, int, int, int]", strides),
        channels_last=layout == "NHWC",
        output_stride=output_stride,
        arguments=arguments,
    )


def can_dilate(name: str, backbone_args: dict[str, Any] | None, output_stride: int) -> bool:
    """Whether the backbone can be dilated to `output_stride`.

    Raises:
        UsageError: the backbone cannot be built at its own stride.
    """
    plan_backbone(name, backbone_args, None)
    try:
        plan_backbone(name, backbone_args, output_stride)
    except UsageError:
        return False
    return True


def create_backbone(plan: BackbonePlan, pretrained: bool | WeightsPath) -> Backbone:
    """Build a planned backbone with weights from the hub (True), from a local file, or random ones (False).

    Layouts and names of a file are those of `distill.models.weight_layouts`, and those that timm translates. timm has
    no weights for MiT, so those come from SegFormer's authors.

    Raises:
        UsageError: the file is missing or lacks a tensor, or the hub has no weights or cannot be reached.
    """
    if isinstance(pretrained, WeightsPath):
        return _from_file(plan, read_pretrained(pretrained))
    if not pretrained:
        return Backbone(plan, _build(plan, None))
    if plan.name in VARIANTS:
        return _from_file(plan, _mit_from_hub(plan.name))
    import timm

    if not timm.is_model_pretrained(plan.timm_name):
        raise UsageError(
            f"timm has no weights for backbone '{plan.name}': use pretrained=False, or a checkpoint's path"
        )
    try:
        network = timm.create_model(plan.timm_name, pretrained=True, **_timm_options(plan))
    except Exception as error:  # timm raises any error for what it downloads
        raise UsageError(
            f"weights of backbone '{plan.name}' could not be loaded from the hub: {error}"
        ) from error
    return Backbone(plan, network, timm_normalisation(plan.timm_name))


def check_weights(
    name: str, weights: WeightsPath, backbone_args: dict[str, Any] | None = None
) -> LoadedWeights:
    """Check that a file has every tensor of a backbone, and return what was found. Builds the backbone once, on the CPU.

    Raises:
        UsageError: as in `create_backbone`.
    """
    loaded = create_backbone(plan_backbone(name, backbone_args, None), weights).loaded
    assert loaded is not None  # it is built from a file
    return loaded


def _from_file(plan: BackbonePlan, file: WeightFile) -> Backbone:
    shapes = _shapes_of_whole(plan.timm_name, json.dumps(plan.arguments, sort_keys=True))
    network, loaded = load_backbone(plan.name, file, shapes, lambda state: _build(plan, state))
    normalisation = loaded.normalisation or timm_normalisation(plan.timm_name)
    return Backbone(plan, network, normalisation, replace(loaded, normalisation=normalisation))


def _build(plan: BackbonePlan, state: dict[str, Tensor] | None) -> nn.Module:
    import timm

    options = _timm_options(plan)
    if state is not None:
        options["pretrained_cfg_overlay"] = {"state_dict": state, "custom_load": False}
    logger = logging.getLogger("timm.models._builder")  # it warns of a classifier's tensors in the file
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        network: nn.Module = timm.create_model(plan.timm_name, pretrained=state is not None, **options)
    finally:
        logger.setLevel(level)
    return network


def _timm_options(plan: BackbonePlan) -> dict[str, Any]:
    options: dict[str, Any] = {**plan.arguments, "features_only": True, "out_indices": plan.out_indices}
    if plan.output_stride is not None:
        options["output_stride"] = plan.output_stride
    return options


@lru_cache(maxsize=64)
def _shapes_of_whole(timm_name: str, arguments_json: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of timm's whole network, classifier and all, by name; built on the meta device."""
    import timm

    with torch.device("meta"):
        network = timm.create_model(timm_name, **_tuples(json.loads(arguments_json)))
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _resolve(name: str) -> tuple[str, str, dict[str, Any]]:
    """timm's name of a backbone, its timm architecture, and the arguments of a variant."""
    import timm

    if name in VARIANTS:
        architecture, defaults = VARIANTS[name]
        return architecture, architecture, defaults
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown("backbone", name, list_backbones())
    if tag and name not in timm.list_pretrained(architecture):
        raise unknown(f"weights tag of backbone '{architecture}'", name, timm.list_pretrained(architecture))
    return name, architecture, {}


def _timm_file(architecture: str) -> str:
    """The timm model file that defines an architecture."""
    from timm.models import _registry

    return str(_registry._model_to_module[architecture])


def _probe(timm_name: str, arguments: dict[str, Any]) -> tuple[Any, str]:
    """timm's feature info and memory layout, from a build on the meta device."""
    import timm

    with torch.device("meta"):
        network = timm.create_model(timm_name, features_only=True, **arguments)
    layout = getattr(network, "output_fmt", None)
    return network.feature_info, "NCHW" if layout is None else str(getattr(layout, "value", layout))


def _four_stages(name: str, reductions: list[int]) -> tuple[int, ...]:
    """Indices of the four stages: those of strides 4, 8, 16, 32 if they exist, else the last four.

    A plain transformer gives four evenly spaced blocks.
    """
    count = len(reductions)
    if count < 4:
        raise UsageError(
            f"backbone '{name}' has {count} feature maps (strides {', '.join(map(str, reductions))}), must "
            "have at least 4; choose another backbone"
        )
    if count > 6 or len(set(reductions)) == 1:
        return tuple(count * quarter // 4 - 1 for quarter in (1, 2, 3, 4))
    if {4, 8, 16, 32} <= set(reductions):
        return tuple(count - 1 - reductions[::-1].index(stride) for stride in (4, 8, 16, 32))
    return tuple(range(count - 4, count))


def _tuples(value: Any) -> Any:
    """The JSON value with lists replaced by tuples, at any depth."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def _mit_from_hub(name: str) -> WeightFile:
    """ImageNet weights of `mit_bN` by the authors of SegFormer."""
    from timm.models import load_state_dict_from_hf

    source = f"nvidia/{name.replace('_', '-')}"
    try:
        state = load_state_dict_from_hf(source, weights_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"weights of backbone '{name}' could not be loaded from the hub ({source}): {error}"
        ) from error
    return WeightFile(Path(source), "", "", state)
