"""Deformable RoI pooling as a layer, v1 (https://arxiv.org/abs/1703.06211, Sec. 2.2) and v2 (https://arxiv.org/abs/1811.11168), with mmcv's
parameter names."""
from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from detkit.nn.operators import Multiply
from detkit.ops.deform_roi_pool import deform_roi_pool
from detkit.ops.roi_align import roi_align


class DeformRoIPool(nn.Module):
    """Deformable RoI pooling v1: offsets of the bins are predicted from the RoI's features. Initially it equals RoIAlign.

    Args:
        output_channels: channels of the feature map.
        deform_fc_channels: channels of the two hidden layers.
        gamma: factor of the offsets.
        spatial_scale: 1 / stride of the feature map.
        sampling_ratio: samples per bin and axis; 0: derived from the RoI's size.
    """

    modulated = False

    def __init__(self, output_size: int | tuple[int, int], output_channels: int, spatial_scale: float, deform_fc_channels: int = 1024,
                 sampling_ratio: int = 0, gamma: float = 0.1) -> None:
        super().__init__()
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        self.settings = dict(spatial_scale=spatial_scale, sampling_ratio=sampling_ratio)
        self.gamma = gamma
        bins = self.output_size[0] * self.output_size[1]
        self.offset_fc = nn.Sequential(nn.Linear(bins * output_channels, deform_fc_channels), nn.ReLU(inplace=True),
                                       nn.Linear(deform_fc_channels, deform_fc_channels), nn.ReLU(inplace=True),
                                       nn.Linear(deform_fc_channels, bins * 2))
        if self.modulated:
            self.mask_fc = nn.Sequential(nn.Linear(bins * output_channels, deform_fc_channels), nn.ReLU(inplace=True),
                                         nn.Linear(deform_fc_channels, bins), nn.Sigmoid())
            self.multiply = Multiply()
        for last in (self.offset_fc[4], *([self.mask_fc[2]] if self.modulated else [])):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, feature: Tensor, rois: Tensor) -> Tensor:
        """Pool RoIs (n, 5) from a feature map (N, C, H, W); returns (n, C, *output_size)."""
        x = roi_align(feature, rois, self.output_size, **self.settings).flatten(1)
        offset = self.offset_fc(x).reshape(-1, 2, *self.output_size)
        pooled = deform_roi_pool(feature, rois, offset, gamma=self.gamma, **self.settings)
        return self.multiply(pooled, self.mask_fc(x).reshape(-1, 1, *self.output_size)) if self.modulated else pooled


class ModulatedDeformRoIPool(DeformRoIPool):
    """Deformable RoI pooling v2: each bin also has a learnt weight, initially 0.5."""

    modulated = True
