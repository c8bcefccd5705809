"""Balanced feature pyramid (Libra R-CNN, https://arxiv.org/abs/1904.02701, Sec. 3.2)."""
from __future__ import annotations

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from detkit.nn.conv import ConvModule
from detkit.nn.non_local import NonLocal2d
from detkit.registry import MODELS, ConfigError

REFINEMENTS = (None, 'conv', 'non_local')


@MODELS.register_module()
class BFP(BaseModule):
    """The mean of all levels, refined, is added to each of them.

    Args:
        refine_level: index of the level at whose size the mean is taken.
        refine_type: ``conv`` (3x3), ``non_local``, or None: not refined.
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
        if refine_type == 'conv':
            self.refine = ConvModule(in_channels, in_channels, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        elif refine_type == 'non_local':
            self.refine = NonLocal2d(in_channels, reduction=1, use_scale=False, conv_cfg=conv_cfg, norm_cfg=norm_cfg)

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """``num_levels`` maps of ``in_channels``, fine to coarse -> maps of the same shapes.

        Raises:
            ConfigError: another number of maps.
        """
        if len(feats) != self.num_levels:
            raise ConfigError(f'BFP num_levels={self.num_levels}; it was given {len(feats)} maps.')
        size = feats[self.refine_level].shape[-2:]
        mean = sum(resized(x, size, finer=i < self.refine_level) for i, x in enumerate(feats)) / len(feats)
        if self.refine is not None:
            mean = self.refine(mean)
        return tuple(x + resized(mean, x.shape[-2:], finer=i > self.refine_level) for i, x in enumerate(feats))


def resized(x: Tensor, size: tuple[int, int], finer: bool) -> Tensor:
    """To ``size``: by maxima where ``x`` is the finer map, else by repetition."""
    return F.adaptive_max_pool2d(x, size) if finer else F.interpolate(x, size, mode='nearest')
