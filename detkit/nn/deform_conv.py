"""Deformable convolution, v1 (https://arxiv.org/abs/1703.06211) and v2 (https://arxiv.org/abs/1811.11168), with mmcv's parameter names."""
from __future__ import annotations

import math

import torch
import torch.nn as nn
from torch import Tensor

from detkit.ops.deform_conv import deform_conv
from detkit.registry import ConfigError

Pair = int | tuple[int, int]


class DeformConv2d(nn.Module):
    """Deformable convolution v1: samples at positions predicted by another convolution, ``conv_offset``. Initial offsets are 0.

    ``deform_groups`` (or ``deformable_groups``, its older name): number of groups of input channels, each with its own offsets.
    """

    modulated = False

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Pair, stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1,
                 groups: int = 1, bias: bool = False, deform_groups: int = 1, deformable_groups: int | None = None) -> None:
        super().__init__()
        deform_groups = deformable_groups or deform_groups
        if in_channels % groups or out_channels % groups or in_channels % deform_groups:
            raise ConfigError(f'{type(self).__name__} groups={groups} must divide in_channels={in_channels} and '
                              f'out_channels={out_channels}, and deform_groups={deform_groups} in_channels.')
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.places = deform_groups * kernel[0] * kernel[1]
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.conv_offset = nn.Conv2d(in_channels, (3 if self.modulated else 2) * self.places, kernel, stride, padding, dilation)
        self.sigmoid = nn.Sigmoid() if self.modulated else None
        bound = 1 / math.sqrt(in_channels * kernel[0] * kernel[1])
        nn.init.uniform_(self.weight, -bound, bound)
        self.reset_offsets()

    def reset_offsets(self) -> None:
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (N, C_out, H', W') in float32 from (N, C, H, W)."""
        offset, mask = self.conv_offset(x), None
        if self.modulated:
            offset, mask = offset.split([2 * self.places, self.places], 1)
            mask = self.sigmoid(mask.float())
        return deform_conv(x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)


class ModulatedDeformConv2d(DeformConv2d):
    """Deformable convolution v2: each sample also has a learnt weight, initially 0.5. ``conv_offset`` predicts all offsets (dy, dx), then
    all weights."""

    modulated = True
