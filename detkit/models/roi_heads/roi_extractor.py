"""Pool the features of regions (RoIs) from a feature pyramid."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from detkit.nn.deform_roi_pool import DeformRoIPool, ModulatedDeformRoIPool
from detkit.ops.roi_align import roi_align
from detkit.registry import MODELS, ConfigError, construct, did_you_mean

DEFORMABLE = {'DeformRoIPoolPack': DeformRoIPool, 'ModulatedDeformRoIPoolPack': ModulatedDeformRoIPool}


@dataclass(frozen=True)
class RoIAlign:
    """Arguments of the ``roi_layer`` of type RoIAlign. mmcv's ``use_torchvision`` is accepted; it selects a kernel and changes no
    result."""

    output_size: int | tuple[int, int]
    sampling_ratio: int = 0                # samples per bin and axis; 0: derived from the RoI's size
    aligned: bool = True
    pool_mode: Literal['avg'] = 'avg'
    use_torchvision: bool = False


@MODELS.register_module()
class SingleRoIExtractor(BaseModule):
    """Apply RoIAlign to the pyramid level that fits each RoI's size (FPN, https://arxiv.org/abs/1612.03144, eq. 1).

    Args:
        roi_layer: ``dict(type='RoIAlign', output_size, sampling_ratio=0, aligned=True)``, or a deformable pooling of mmcv,
            ``dict(type='DeformRoIPoolPack' (or 'ModulatedDeformRoIPoolPack'), output_size, output_channels, ...)``.
        out_channels: channels of the feature maps.
        featmap_strides: strides of the levels used, fine to coarse.
        finest_scale: RoIs with sqrt(area) below twice this many pixels are pooled from the finest level.
    """

    def __init__(self, roi_layer: dict, out_channels: int, featmap_strides: list[int], finest_scale: int = 56,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.out_channels, self.featmap_strides, self.finest_scale = out_channels, list(featmap_strides), finest_scale
        self.roi_layers = nn.ModuleList()                  # empty for RoIAlign, which has no weights
        kind = roi_layer.get('type')
        if kind in DEFORMABLE:
            self.roi_layers.extend(construct(DEFORMABLE[kind], roi_layer, spatial_scale=1 / stride) for stride in self.featmap_strides)
        elif kind == 'RoIAlign':
            self.align = construct(RoIAlign, roi_layer)
        else:
            known = ('RoIAlign', *DEFORMABLE)
            raise ConfigError(f"roi_layer type {kind!r} is unknown.{did_you_mean(kind, known)} Known: {', '.join(known)}.", roi_layer,
                              ('type',))

    def levels(self, rois: Tensor) -> Tensor:
        """Return the level from which each RoI is pooled: (n, 4) -> (n,) int64."""
        side = ((rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1])).sqrt()
        return (side / self.finest_scale + 1e-6).log2().floor().clamp(0, len(self.featmap_strides) - 1).long()

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        """Pool RoIs (n, 5): index of the image, then xyxy in pixels of the network input. Returns (n, C, output_size, output_size)."""
        level = self.levels(rois[:, 1:])
        # pool from levels without RoIs too, so that all processes build the same graph
        theirs = [rois[(level == i).nonzero().squeeze(1)] for i in range(len(self.featmap_strides))]
        if self.roi_layers:
            pooled = [layer(x, r) for layer, x, r in zip(self.roi_layers, feats, theirs)]
        else:
            pooled = [roi_align(x, r, self.align.output_size, 1 / stride, self.align.sampling_ratio, self.align.aligned)
                      for x, r, stride in zip(feats, theirs, self.featmap_strides)]
        return torch.cat(pooled)[place_among(level, len(pooled))]


def place_among(group: Tensor, count: int) -> Tensor:
    """Return the position (n,) of each element when the elements are sorted by group; ``group`` (n,) has values 0 .. ``count`` - 1.

    This is the inverse of a stable argsort, written with operators that ONNX supports.
    """
    mine = (group[:, None] == torch.arange(count, device=group.device)).long()
    before = mine.sum(0).cumsum(0) - mine.sum(0)
    return ((mine.cumsum(0) - 1 + before) * mine).sum(1)


def numbered(rois: list[Tensor] | Tensor) -> Tensor:
    """Return RoIs (n, 5) with the index of the image in front, from a list of (n_i, 4) or a batch (N, M, 4)."""
    if isinstance(rois, Tensor):
        index = torch.arange(rois.shape[0], device=rois.device, dtype=rois.dtype)[:, None, None].expand(-1, rois.shape[1], 1)
        return torch.cat([index, rois], 2).flatten(0, 1)
    return torch.cat([torch.cat([r.new_full((len(r), 1), i), r], 1) for i, r in enumerate(rois)])
