"""DeepLabV3: atrous spatial pyramid pooling on the last stage."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.models.heads.registry import HeadInputs, register_head


def _default_channels(backbone: str, last_channels: int) -> int:
    """256 over wide backbones, 128 over narrow ones: the widths behind the sizes published in this field."""
    return 256 if last_channels >= 1024 else 128


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, BatchNorm and ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


@register_head(
    "deeplabv3",
    title="DeepLabV3",
    paper="Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, arXiv 1706.05587",
    output_stride=8,
    default_channels=_default_channels,
)
class DeepLabV3Head(nn.Module):
    """Five parallel views of the last stage, joined, and a classifier.

    The views are a 1×1 convolution, three dilated 3×3 convolutions and the image's mean; dilation rates are
    (12, 24, 36) at output stride 8 and (6, 12, 18) above it (section 3.3 of the paper). The auxiliary
    classifier that code bases add in training is not part of it.
    """

    def __init__(self, inputs: HeadInputs) -> None:
        super().__init__()
        in_channels, width = inputs.channels[-1], inputs.head_channels
        self.fused_channels = width
        self.stride = inputs.strides[-1]
        rates = (12, 24, 36) if self.stride <= 8 else (6, 12, 18)
        self.local = nn.ModuleList([conv_norm_relu(in_channels, width, 1)])
        self.local.extend(conv_norm_relu(in_channels, width, 3, dilation=rate) for rate in rates)
        self.image = conv_norm_relu(in_channels, width, 1)
        self.join = conv_norm_relu(5 * width, width, 1)
        self.refine = conv_norm_relu(width, width, 3)
        self.dropout = nn.Dropout2d(inputs.dropout)
        self.classifier = nn.Conv2d(width, inputs.num_classes, 1)

    def forward(self, stages: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """`fused` and `logits` at the stride of the last stage."""
        last = stages[-1]
        views = [branch(last) for branch in self.local]
        views.append(self.image(last.mean((2, 3), keepdim=True)).expand_as(views[0]))
        fused = self.refine(self.join(torch.cat(views, dim=1)))
        return fused, self.classifier(self.dropout(fused))
