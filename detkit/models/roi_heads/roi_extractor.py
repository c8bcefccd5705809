"""Features of regions (RoIs), pooled from a pyramid."""
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
    """The ``roi_layer`` of that type. Of mmcv's arguments, ``use_torchvision`` chose a kernel; both give the same numbers."""

    output_size: int | tuple[int, int]
    sampling_ratio: int = 0                # samples per bin and axis; 0: as many as fit
    aligned: bool = True
    pool_mode: Literal['avg'] = 'avg'
    use_torchvision: bool = False


@MODELS.register_module()
class SingleRoIExtractor(BaseModule):
    """RoIAlign on the one level that fits each RoI's size (FPN, https://arxiv.org/abs/1612.03144, eq. 1).

    Args:
        roi_layer: ``dict(type='RoIAlign', output_size, sampling_ratio=0, aligned=True)``, or one of mmcv's deformable ones, ``dict(
            type='DeformRoIPoolPack' (or 'ModulatedDeformRoIPoolPack'), output_size, output_channels, ...)``.
        out_channels: of the feature maps. featmap_strides: of the levels used, fine to coarse.
        finest_scale: RoIs with a mean side below twice this many pixels are pooled from the finest level.
    """

    def __init__(self, roi_layer: dict, out_channels: int, featmap_strides: list[int], finest_scale: int = 56,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.out_channels, self.featmap_strides, self.finest_scale = out_channels, list(featmap_strides), finest_scale
        self.roi_layers = nn.ModuleList()                  # none for RoIAlign, which has no weights
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
        """(n, 4) -> (n,) int64: the level each RoI is pooled from."""
        side = ((rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1])).sqrt()
        return (side / self.finest_scale + 1e-6).log2().floor().clamp(0, len(self.featmap_strides) - 1).long()

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        """``rois``: (n, 5) index of the image, then xyxy in pixels of the network input. Returns (n, C, output_size, output_size)."""
        level = self.levels(rois[:, 1:])
        # a level without RoIs is pooled as well, from none, so that all processes of a run build the same graph
        theirs = [rois[(level == i).nonzero().squeeze(1)] for i in range(len(self.featmap_strides))]
        if self.roi_layers:
            pooled = [layer(x, r) for layer, x, r in zip(self.roi_layers, feats, theirs)]
        else:
            pooled = [roi_align(x, r, self.align.output_size, 1 / stride, self.align.sampling_ratio, self.align.aligned)
                      for x, r, stride in zip(feats, theirs, self.featmap_strides)]
        return torch.cat(pooled)[place_among(level, len(pooled))]


def place_among(group: Tensor, count: int) -> Tensor:
    """(n,) groups 0 .. ``count`` - 1 -> (n,) where each element stands when the groups are put behind one another, in order.

    A stable argsort turned round, from operators that ONNX has."""
    mine = (group[:, None] == torch.arange(count, device=group.device)).long()
    before = mine.sum(0).cumsum(0) - mine.sum(0)
    return ((mine.cumsum(0) - 1 + before) * mine).sum(1)


def numbered(rois: list[Tensor] | Tensor) -> Tensor:
    """RoIs by image, a list of (n_i, 4) or a batch (N, M, 4) -> (n, 5), the index of the image in front."""
    if isinstance(rois, Tensor):
        index = torch.arange(rois.shape[0], device=rois.device, dtype=rois.dtype)[:, None, None].expand(-1, rois.shape[1], 1)
        return torch.cat([index, rois], 2).flatten(0, 1)
    return torch.cat([torch.cat([r.new_full((len(r), 1), i), r], 1) for i, r in enumerate(rois)])
