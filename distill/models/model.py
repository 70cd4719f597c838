"""A segmentation model: a backbone and a head, built by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, get_args

from pydantic import ConfigDict
from torch import Tensor, nn

from distill.errors import UsageError, unknown
from distill.models.backbones import Backbone, BackbonePlan, can_dilate, create_backbone, plan_backbone
from distill.models.heads import HeadCard, HeadInputs, head_card, list_heads
from distill.models.norms import Norm, replace_batch_norm
from distill.models.output import ModelInfo, Output
from distill.models.pretrained import weights_path
from distill.normalisation import IMAGENET, Normalisation, normalisation_of


@dataclass(frozen=True)
class ModelOptions:
    """Everything that decides what a model computes, but its weights; `build_model(**options.arguments())` rebuilds it.

    `output_stride` and `head_channels` are as requested; None is the head's default. `normalisation` is what the
    backbone's pretrained weights were trained with; None is ImageNet's mean and standard deviation.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    num_classes: int
    output_stride: int | None = None
    head_channels: int | None = None
    norm: Norm = "batch"
    dropout: float = 0.1
    backbone_args: dict[str, Any] = field(default_factory=dict)
    normalisation: Normalisation | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `build_model`, as JSON values. There is a normalisation only if it is not ImageNet's."""
        found = asdict(self)
        return {name: value for name, value in found.items() if (name, value) != ("normalisation", None)}


class SegmentationModel(nn.Module):
    """A timm backbone and a segmentation head.

    It takes images that are normalised with ImageNet's statistics. The backbone normalises them with those of its pretrained
    weights if they differ.

    Attributes:
        info: shapes of its outputs.
        options: the arguments it was built with.
    """

    def __init__(self, options: ModelOptions, info: ModelInfo, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.options = options
        self.info = info
        self.backbone = backbone
        self.head = head

    def forward(self, images_b3hw: Tensor) -> Output:
        """Stages, fused map and logits of normalised images; logits stay at the head's stride."""
        stages = self.backbone(images_b3hw)
        fused, logits = self.head(stages)
        return Output(stages=stages, fused=fused, logits=logits)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the head."""
        return self.head.parameters()


def build_model(
    name: str,
    num_classes: int,
    pretrained: bool | str | Path | Mapping[str, str | None] = False,
    *,
    output_stride: int | None = None,
    head_channels: int | None = None,
    norm: Norm = "batch",
    dropout: float = 0.1,
    backbone_args: dict[str, Any] | None = None,
    normalisation: Sequence[Sequence[float]] | None = None,
) -> SegmentationModel:
    """Build the model `head-backbone`, for instance `deeplabv3-resnet101` or `segformer-mit_b4`.

    Args:
        name: a head (`list_heads()`), a dash, and a backbone: `mit_b0` to `mit_b5` or any timm name.
        num_classes: number of classes K, at least 2.
        pretrained: False for random weights, True for timm's hub weights, or a local checkpoint of the backbone: its
            path, or `{"path": …, "key": …}` if it has several sets of weights. Heads are always initialised at random.
        output_stride: 8 or 16 dilates the backbone's last stages; None is the head's default (DeepLabV3
            dilates to 8 where the backbone can).
        head_channels: width of the head; None is the head's default for this backbone.
        norm: "batch"; "sync" for BatchNorm synchronised over ranks; "group" for GroupNorm in its place.
        dropout: probability with which a channel of the classifier's input is dropped in training, in [0, 1).
        backbone_args: extra arguments of timm's constructor, JSON values only: `{"layers": [1, 1, 1, 1]}`.
        normalisation: mean and standard deviation that the backbone's weights were trained with, to rebuild a model; None is
            that of the pretrained weights, or ImageNet's.

    Raises:
        UsageError: the head or backbone is unknown (the message names the nearest), or does not support an option.
    """
    options = ModelOptions(
        name, num_classes, output_stride, head_channels, norm, dropout, dict(backbone_args or {})
    )
    _check_options(options)
    card, plan = plan_model(options)
    width = head_channels or card.default_channels(plan.name, plan.channels[-1])
    backbone = create_backbone(plan, weights_path(pretrained))
    if normalisation is not None:
        backbone.normalisation = normalisation_of(normalisation)
    if backbone.normalisation != IMAGENET:
        options = replace(options, normalisation=backbone.normalisation)
    head = card.build(HeadInputs(plan.channels, plan.strides, num_classes, width, dropout))
    info = ModelInfo(
        name=name,
        family=plan.family,
        num_classes=num_classes,
        channels=plan.channels,
        strides=plan.strides,
        fused_channels=int(head.fused_channels),  # type: ignore[arg-type]
        fused_stride=int(head.stride),  # type: ignore[arg-type]
        logits_stride=int(head.stride),  # type: ignore[arg-type]
    )
    model = SegmentationModel(options, info, backbone, head)
    replace_batch_norm(model, norm)
    return model


def plan_model(options: ModelOptions) -> tuple[HeadCard, BackbonePlan]:
    """The head's card and the backbone's plan that `build_model` uses."""
    head_name, dash, backbone_name = options.name.partition("-")
    if not dash:
        raise UsageError(
            f"model '{options.name}' must be written head-backbone, such as 'deeplabv3-resnet18'; "
            f"heads: {', '.join(list_heads())}"
        )
    card = head_card(head_name)
    stride = options.output_stride
    if stride is None and card.output_stride is not None:
        dilated = can_dilate(backbone_name, options.backbone_args, card.output_stride)
        stride = card.output_stride if dilated else None
    return card, plan_backbone(backbone_name, options.backbone_args, stride)


def _check_options(options: ModelOptions) -> None:
    if options.num_classes < 2:
        raise UsageError(f"num_classes is {options.num_classes}, must be at least 2")
    if options.output_stride not in (None, 8, 16, 32):
        raise UsageError(f"output_stride is {options.output_stride}, must be 8, 16 or 32, or left out")
    if options.head_channels is not None and options.head_channels < 1:
        raise UsageError(f"head_channels is {options.head_channels}, must be at least 1, or left out")
    if not 0 <= options.dropout < 1:
        raise UsageError(f"dropout is {options.dropout}, must be in [0, 1)")
    if options.norm not in get_args(Norm):
        raise unknown("norm", options.norm, get_args(Norm))
