"""UPerNet: pyramid pooling on the last stage and a feature pyramid down to the first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.models.heads.layers import PoolingPyramid, conv_norm_relu, resized
from distill.models.heads.registry import HeadInputs, register_head


@register_head(
    "upernet",
    title="UPerNet",
    paper="Xiao et al., Unified Perceptual Parsing for Scene Understanding, ECCV 2018, arXiv 1807.10221",
    output_stride=None,
    default_channels=lambda backbone, last_channels: 512,
)
class UPerNetHead(nn.Module):
    """The semantic branch of UPerNet (figure 4 of the paper), fused at the stride of the first stage.

    The default width of 512 reproduces the sizes published with Swin and ConvNeXt.
    """

    def __init__(self, inputs: HeadInputs) -> None:
        super().__init__()
        width = inputs.head_channels
        self.fused_channels = width
        self.stride = inputs.strides[0]
        self.pyramid = PoolingPyramid(inputs.channels[-1], width)
        self.top = conv_norm_relu(self.pyramid.channels, width, 3)
        self.lateral = nn.ModuleList(conv_norm_relu(channels, width, 1) for channels in inputs.channels[:-1])
        self.smooth = nn.ModuleList(conv_norm_relu(width, width, 3) for _ in self.lateral)
        self.fuse = conv_norm_relu(4 * width, width, 3)
        self.dropout = nn.Dropout2d(inputs.dropout)
        self.classifier = nn.Conv2d(width, inputs.num_classes, 1)

    def forward(self, stages: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """`fused` and `logits` at the stride of the first stage."""
        top = self.top(self.pyramid(stages[-1]))
        levels, above = [top], top
        for stage, lateral, smooth in reversed(
            list(zip(stages[:-1], self.lateral, self.smooth, strict=True))
        ):
            above = lateral(stage) + resized(above, like=stage)
            levels.append(smooth(above))
        fused = self.fuse(torch.cat([resized(level, like=stages[0]) for level in reversed(levels)], dim=1))
        return fused, self.classifier(self.dropout(fused))
