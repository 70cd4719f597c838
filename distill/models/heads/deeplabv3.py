"""DeepLabV3: atrous spatial pyramid pooling on the last stage."""

from __future__ import annotations

from torch import Tensor, nn

from distill.models.heads.layers import AtrousPyramid, conv_norm_relu
from distill.models.heads.registry import HeadInputs, register_head, width_by_backbone


@register_head(
    "deeplabv3",
    title="DeepLabV3",
    paper="Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, arXiv 1706.05587",
    output_stride=8,
    default_channels=width_by_backbone(wide=256, narrow=128),
)
class DeepLabV3Head(nn.Module):
    """The atrous pyramid, a 3×3 convolution and a classifier.

    The auxiliary classifier that code bases add in training is not part of it.
    """

    def __init__(self, inputs: HeadInputs) -> None:
        super().__init__()
        width = inputs.head_channels
        self.fused_channels = width
        self.stride = inputs.strides[-1]
        self.pyramid = AtrousPyramid(inputs.channels[-1], width, self.stride)
        self.refine = conv_norm_relu(width, width, 3)
        self.dropout = nn.Dropout2d(inputs.dropout)
        self.classifier = nn.Conv2d(width, inputs.num_classes, 1)

    def forward(self, stages: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """`fused` and `logits` at the stride of the last stage."""
        fused = self.refine(self.pyramid(stages[-1]))
        return fused, self.classifier(self.dropout(fused))
