"""SegFormer's head: a linear layer per stage, fused at the stride of the first stage."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from distill.models.heads.layers import resized
from distill.models.heads.registry import HeadInputs, register_head


def _default_channels(backbone: str, last_channels: int) -> int:
    """768 for MiT-B2 to B5, 256 for B0, B1 and all others (table 6 of the paper)."""
    return 768 if backbone in ("mit_b2", "mit_b3", "mit_b4", "mit_b5") else 256


@register_head(
    "segformer",
    title="SegFormer-MLP",
    paper="Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, "
    "NeurIPS 2021, arXiv 2105.15203",
    output_stride=None,
    default_channels=_default_channels,
    result_version=2,  # 2: fuses before it upsamples
)
class SegFormerHead(nn.Module):
    """The all-MLP decoder of SegFormer (equation 4 of the paper); linear layers are 1×1 convolutions.

    Each stage is fused at its own stride and upsampled afterwards. Both are linear, so the sum is that of the paper's
    order, for a third of its operations.
    """

    def __init__(self, inputs: HeadInputs) -> None:
        super().__init__()
        width = inputs.head_channels
        self.fused_channels = width
        self.stride = inputs.strides[0]
        self.project = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in inputs.channels)
        self.fuse = nn.Sequential(
            nn.Conv2d(4 * width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.dropout = nn.Dropout2d(inputs.dropout)
        self.classifier = nn.Conv2d(width, inputs.num_classes, 1)

    def forward(self, stages: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """`fused` and `logits` at the stride of the first stage."""
        weights = self.fuse[0].get_parameter("weight").chunk(len(stages), dim=1)  # of each stage's projection
        parts = [
            resized(F.conv2d(project(stage), part), like=stages[0])
            for project, stage, part in zip(self.project, stages, weights, strict=True)
        ]
        fused = self.fuse[1:](parts[0] + parts[1] + parts[2] + parts[3])
        return fused, self.classifier(self.dropout(fused))
