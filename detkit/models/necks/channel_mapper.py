"""A neck that changes only the number of channels."""
from __future__ import annotations

from typing import Literal

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from detkit.nn.conv import ConvModule
from detkit.registry import MODELS, ConfigError


@MODELS.register_module()
class ChannelMapper(BaseModule):
    """One convolution per level, then strided 3x3 convolutions that start from the last input map, if ``num_outs`` exceeds the backbone's
    levels."""

    def __init__(self, in_channels: list[int], out_channels: int, kernel_size: int = 3, conv_cfg: dict | None = None,
                 norm_cfg: dict | None = None, act_cfg: dict | None = dict(type='ReLU'), bias: bool | Literal['auto'] = 'auto',
                 num_outs: int | None = None,
                 init_cfg: dict | None = dict(type='Xavier', layer='Conv2d', distribution='uniform')) -> None:
        super().__init__(init_cfg)
        num_outs = len(in_channels) if num_outs is None else num_outs
        if num_outs < len(in_channels):
            raise ConfigError(f'ChannelMapper num_outs={num_outs} is fewer than the {len(in_channels)} maps of in_channels. Raise num_outs '
                              f'to {len(in_channels)}, or give fewer in_channels and backbone out_indices.')
        options = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg, bias=bias)
        self.convs = nn.ModuleList(ConvModule(c, out_channels, kernel_size, padding=(kernel_size - 1) // 2, **options) for c in in_channels)
        self.extra_convs = None
        if num_outs > len(in_channels):
            sources = [in_channels[-1], *[out_channels] * (num_outs - len(in_channels) - 1)]
            self.extra_convs = nn.ModuleList(ConvModule(c, out_channels, 3, stride=2, padding=1, **options) for c in sources)

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return ``num_outs`` maps of ``out_channels`` from the backbone's maps, fine to coarse.

        Raises:
            ConfigError: the number of maps is not the length of ``in_channels``.
        """
        if len(feats) != len(self.convs):
            raise ConfigError(f'ChannelMapper in_channels has {len(self.convs)} entries; the backbone gives {len(feats)} maps '
                              f'(its out_indices).')
        outs = [conv(x) for conv, x in zip(self.convs, feats)]
        for i, conv in enumerate(self.extra_convs or ()):
            outs.append(conv(feats[-1] if i == 0 else outs[-1]))
        return tuple(outs)
