"""DeepLabV3+: the atrous pyramid of the last stage, refined with the first stage."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.models.heads.layers import AtrousPyramid, conv_norm_relu, resized, separable_conv
from distill.models.heads.registry import HeadInputs, register_head, width_by_backbone

LOW_LEVEL_CHANNELS = 48


@register_head(
    "deeplabv3plus",
    title="DeepLabV3+",
    paper="Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, "
    "ECCV 2018, arXiv 1802.02611",
    output_stride=16,
    default_channels=width_by_backbone(wide=256, narrow=128),
)
class DeepLabV3PlusHead(nn.Module):
    """Encoder and decoder of figure 2 of the paper, both with atrous separable convolutions.

    The first stage is reduced to 48 channels and joined with the enlarged pyramid (section 4.1).
    """

    def __init__(self, inputs: HeadInputs) -> None:
        super().__init__()
        width = inputs.head_channels
        self.fused_channels = width
        self.stride = inputs.strides[0]
        self.pyramid = AtrousPyramid(inputs.channels[-1], width, inputs.strides[-1], separable=True)
        self.low_level = conv_norm_relu(inputs.channels[0], LOW_LEVEL_CHANNELS, 1)
        self.refine = nn.Sequential(
            separable_conv(width + LOW_LEVEL_CHANNELS, width), separable_conv(width, width)
        )
        self.dropout = nn.Dropout2d(inputs.dropout)
        self.classifier = nn.Conv2d(width, inputs.num_classes, 1)

    def forward(self, stages: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """`fused` and `logits` at the stride of the first stage."""
        low_level = self.low_level(stages[0])
        pyramid = resized(self.pyramid(stages[-1]), like=low_level)
        fused = self.refine(torch.cat([pyramid, low_level], dim=1))
        return fused, self.classifier(self.dropout(fused))
