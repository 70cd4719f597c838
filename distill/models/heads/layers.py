"""Layers shared by several heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A size-preserving convolution, BatchNorm and ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def separable_conv(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """A 3×3 convolution of each channel and a 1×1 convolution across them, each with BatchNorm and ReLU.

    The atrous separable convolution of DeepLabV3+ (Chen et al., ECCV 2018, section 3.1).
    """
    return nn.Sequential(
        nn.Conv2d(
            in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
        ),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        *conv_norm_relu(in_channels, out_channels, 1),
    )


def resized(features: Tensor, like: Tensor) -> Tensor:
    """`features` `B×C×h×w`, resized bilinearly to the height and width of `like`."""
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False)


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling: five parallel branches over one map, concatenated and projected.

    The branches are a 1×1 convolution, three dilated 3×3 convolutions and the image's mean; dilation rates are
    (12, 24, 36) at stride 8 and (6, 12, 18) above it (Chen et al., arXiv 1706.05587, section 3.3).

    Args:
        in_channels: channels of the map.
        width: channels of each branch and of the result.
        stride: of the map, in image pixels.
        separable: use separable dilated convolutions, as in DeepLabV3+.
    """

    def __init__(self, in_channels: int, width: int, stride: int, *, separable: bool = False) -> None:
        super().__init__()
        rates = (12, 24, 36) if stride <= 8 else (6, 12, 18)
        self.local = nn.ModuleList([conv_norm_relu(in_channels, width, 1)])
        for rate in rates:
            self.local.append(
                separable_conv(in_channels, width, rate)
                if separable
                else conv_norm_relu(in_channels, width, 3, dilation=rate)
            )
        self.image = conv_norm_relu(in_channels, width, 1)
        self.join = conv_norm_relu(5 * width, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """`B×C×h×w` to `B×width×h×w`."""
        views = [branch(features) for branch in self.local]
        views.append(self.image(features.mean((2, 3), keepdim=True)).expand_as(views[0]))
        joined: Tensor = self.join(torch.cat(views, dim=1))
        return joined


class PoolingPyramid(nn.Module):
    """Pyramid pooling of PSPNet: a map concatenated with its means over grids of 1, 4, 9 and 36 cells.

    Zhao et al., arXiv 1612.01105, section 3.2.

    Args:
        in_channels: channels of the map.
        width: channels of each projected mean.

    Attributes:
        channels: channels of the result, `in_channels + 4·width`.
    """

    GRIDS = (1, 2, 3, 6)

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.means = nn.ModuleList(conv_norm_relu(in_channels, width, 1) for _ in self.GRIDS)
        self.channels = in_channels + len(self.GRIDS) * width

    def forward(self, features: Tensor) -> Tensor:
        """`B×C×h×w` to `B×channels×h×w`."""
        views = [features]
        for grid, reduce in zip(self.GRIDS, self.means, strict=True):
            views.append(resized(reduce(F.adaptive_avg_pool2d(features, grid)), like=features))
        return torch.cat(views, dim=1)
