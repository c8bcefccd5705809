"""Balanced feature pyramid (Libra R-CNN, https://arxiv.org/abs/1904.02701, Sec. 3.2)."""
from __future__ import annotations

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from detkit.nn.conv import ConvModule
from detkit.nn.non_local import NonLocal2d
from detkit.nn.operators import Add, MaxResize, Mean, Resize
from detkit.registry import MODELS, ConfigError

REFINEMENTS = (None, 'conv', 'non_local')


@MODELS.register_module()
class BFP(BaseModule):
    """Resize all levels to one size, average and refine them, and add the result to each level.

    Args:
        refine_level: index of the level whose size the average has.
        refine_type: ``conv`` (3x3), ``non_local``, or None: no refinement.
    """

    def __init__(self, in_channels: int, num_levels: int, refine_level: int = 2, refine_type: str | None = None,
                 conv_cfg: dict | None = None, norm_cfg: dict | None = None,
                 init_cfg: dict | None = dict(type='Xavier', layer='Conv2d', distribution='uniform')) -> None:
        super().__init__(init_cfg)
        if refine_type not in REFINEMENTS:
            raise ConfigError(f"BFP refine_type='{refine_type}' is unknown. Known: {', '.join(map(str, REFINEMENTS))}.")
        if not 0 <= refine_level < num_levels:
            raise ConfigError(f'BFP refine_level={refine_level} must be one of its {num_levels} levels, 0 to {num_levels - 1}.')
        self.num_levels, self.refine_level, self.refine = num_levels, refine_level, None
        self.gathers = nn.ModuleList(resizing(finer=i < refine_level) for i in range(num_levels))
        self.scatters = nn.ModuleList(resizing(finer=i > refine_level) for i in range(num_levels))
        self.mean, self.adds = Mean(), nn.ModuleList(Add() for _ in range(num_levels))
        if refine_type == 'conv':
            self.refine = ConvModule(in_channels, in_channels, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        elif refine_type == 'non_local':
            self.refine = NonLocal2d(in_channels, reduction=1, use_scale=False, conv_cfg=conv_cfg, norm_cfg=norm_cfg)

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return maps of the same shapes as ``feats``: ``num_levels`` maps of ``in_channels``, fine to coarse.

        Raises:
            ConfigError: the number of maps is not ``num_levels``.
        """
        if len(feats) != self.num_levels:
            raise ConfigError(f'BFP num_levels={self.num_levels}; it was given {len(feats)} maps.')
        size = feats[self.refine_level].shape[-2:]
        mean = self.mean(*(gather(x, size) for gather, x in zip(self.gathers, feats)))
        if self.refine is not None:
            mean = self.refine(mean)
        return tuple(add(x, scatter(mean, x.shape[-2:])) for add, scatter, x in zip(self.adds, self.scatters, feats))


def resizing(finer: bool) -> nn.Module:
    """Return the module that resizes a map: max pooling for a map that is finer than the target, else nearest-neighbour upsampling."""
    return MaxResize() if finer else Resize(mode='nearest')
