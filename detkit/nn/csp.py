"""Cross-stage-partial layers of RTMDet (https://arxiv.org/abs/2212.07784, Sec. 3.2)."""
from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from detkit.nn.conv import ConvModule, DepthwiseSeparableConvModule


class ChannelAttention(nn.Module):
    """Weigh each channel by a gate that sees the channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * nn.functional.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class CSPNeXtBlock(nn.Module):
    """3x3 convolution, 5x5 depthwise-separable convolution, shortcut."""

    def __init__(self, channels: int, add_identity: bool, use_depthwise: bool, **options: object) -> None:
        super().__init__()
        first = DepthwiseSeparableConvModule if use_depthwise else ConvModule
        self.conv1 = first(channels, channels, 3, padding=1, **options)
        self.conv2 = DepthwiseSeparableConvModule(channels, channels, 5, padding=2, **options)
        self.add_identity = add_identity

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x))
        return out + x if self.add_identity else out


class CSPLayer(nn.Module):
    """Two paths of ``expand_ratio`` times ``out_channels``, one of them through blocks; joined, gated, mixed."""

    def __init__(self, in_channels: int, out_channels: int, expand_ratio: float = 0.5, num_blocks: int = 1,
                 add_identity: bool = True, use_depthwise: bool = False, channel_attention: bool = False,
                 **options: object) -> None:
        super().__init__()
        mid = int(out_channels * expand_ratio)
        self.main_conv = ConvModule(in_channels, mid, 1, **options)
        self.short_conv = ConvModule(in_channels, mid, 1, **options)
        self.final_conv = ConvModule(2 * mid, out_channels, 1, **options)
        self.blocks = nn.Sequential(*(CSPNeXtBlock(mid, add_identity, use_depthwise, **options) for _ in range(num_blocks)))
        self.attention = ChannelAttention(2 * mid) if channel_attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.blocks(self.main_conv(x)), self.short_conv(x)], 1)
        return self.final_conv(self.attention(joined))
