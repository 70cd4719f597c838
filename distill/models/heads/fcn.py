"""FCN: one convolution and a classifier on the last stage."""

from __future__ import annotations

from torch import Tensor, nn

from distill.models.heads.layers import conv_norm_relu
from distill.models.heads.registry import HeadInputs, register_head


@register_head(
    "fcn",
    title="FCN",
    paper="Long et al., Fully Convolutional Networks for Semantic Segmentation, CVPR 2015, arXiv 1411.4038",
    output_stride=8,
    default_channels=lambda backbone, last_channels: max(1, last_channels // 4),
)
class FCNHead(nn.Module):
    """A 3×3 convolution to a quarter of the channels, and a classifier, over a dilated backbone.

    It has neither the paper's skip connections from earlier stages nor an auxiliary classifier.
    """

    def __init__(self, inputs: HeadInputs) -> None:
        super().__init__()
        width = inputs.head_channels
        self.fused_channels = width
        self.stride = inputs.strides[-1]
        self.refine = conv_norm_relu(inputs.channels[-1], width, 3)
        self.dropout = nn.Dropout2d(inputs.dropout)
        self.classifier = nn.Conv2d(width, inputs.num_classes, 1)

    def forward(self, stages: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """`fused` and `logits` at the stride of the last stage."""
        fused = self.refine(stages[-1])
        return fused, self.classifier(self.dropout(fused))
