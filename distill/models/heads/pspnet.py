"""PSPNet: pyramid pooling over the last stage."""

from __future__ import annotations

from torch import Tensor, nn

from distill.models.heads.layers import PoolingPyramid, conv_norm_relu
from distill.models.heads.registry import HeadInputs, register_head, width_by_backbone


@register_head(
    "pspnet",
    title="PSPNet",
    paper="Zhao et al., Pyramid Scene Parsing Network, CVPR 2017, arXiv 1612.01105",
    output_stride=8,
    default_channels=width_by_backbone(wide=512, narrow=128),
)
class PSPNetHead(nn.Module):
    """Pyramid pooling, each grid with a quarter of the stage's channels, a 3×3 convolution and a classifier.

    It has no auxiliary classifier.
    """

    def __init__(self, inputs: HeadInputs) -> None:
        super().__init__()
        width = inputs.head_channels
        self.fused_channels = width
        self.stride = inputs.strides[-1]
        self.pyramid = PoolingPyramid(inputs.channels[-1], max(1, inputs.channels[-1] // 4))
        self.join = conv_norm_relu(self.pyramid.channels, width, 3)
        self.dropout = nn.Dropout2d(inputs.dropout)
        self.classifier = nn.Conv2d(width, inputs.num_classes, 1)

    def forward(self, stages: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """`fused` and `logits` at the stride of the last stage."""
        fused = self.join(self.pyramid(stages[-1]))
        return fused, self.classifier(self.dropout(fused))
