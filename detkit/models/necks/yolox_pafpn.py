"""YOLOX's neck: a path-aggregation pyramid (PANet, https://arxiv.org/abs/1803.01534) of CSP layers (https://arxiv.org/abs/2107.08430)."""
from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from detkit.nn.conv import ConvModule, DepthwiseSeparableConvModule
from detkit.nn.csp import CSPLayer, DarknetBottleneck
from detkit.registry import MODELS, ConfigError


@MODELS.register_module()
class YOLOXPAFPN(BaseModule):
    """Top-down, then bottom-up; each step joins two maps and mixes them in a CSP layer without shortcuts.

    Args:
        in_channels: of the backbone's maps, fine to coarse. out_channels: of every map returned.
        num_csp_blocks: blocks of each CSP layer. upsample_cfg: arguments of ``torch.nn.functional.interpolate``.
    """

    def __init__(self, in_channels: list[int], out_channels: int, num_csp_blocks: int = 3, use_depthwise: bool = False,
                 upsample_cfg: dict = dict(scale_factor=2, mode='nearest'), conv_cfg: dict | None = None,
                 norm_cfg: dict = dict(type='BN', momentum=0.03, eps=0.001), act_cfg: dict = dict(type='Swish'),
                 init_cfg: dict | None = dict(type='Kaiming', layer='Conv2d', a=5**0.5, distribution='uniform',
                                              mode='fan_in', nonlinearity='leaky_relu')) -> None:
        super().__init__(init_cfg)
        self.upsample_cfg = dict(upsample_cfg)
        options = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        down = DepthwiseSeparableConvModule if use_depthwise else ConvModule

        def mix(channels_in: int, channels_out: int) -> CSPLayer:
            return CSPLayer(channels_in, channels_out, num_blocks=num_csp_blocks, add_identity=False, use_depthwise=use_depthwise,
                            block=DarknetBottleneck, **options)

        coarse_to_fine = range(len(in_channels) - 1, 0, -1)
        self.reduce_layers = nn.ModuleList(ConvModule(in_channels[i], in_channels[i - 1], 1, **options) for i in coarse_to_fine)
        self.top_down_blocks = nn.ModuleList(mix(in_channels[i - 1] * 2, in_channels[i - 1]) for i in coarse_to_fine)
        self.downsamples = nn.ModuleList(down(c, c, 3, 2, 1, **options) for c in in_channels[:-1])
        self.bottom_up_blocks = nn.ModuleList(mix(a * 2, b) for a, b in zip(in_channels[:-1], in_channels[1:]))
        self.out_convs = nn.ModuleList(ConvModule(c, out_channels, 1, **options) for c in in_channels)

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Backbone maps, fine to coarse -> as many maps of ``out_channels``, same sizes.

        Raises:
            ConfigError: another number of maps than of ``in_channels``.
        """
        if len(feats) != len(self.out_convs):
            raise ConfigError(f'YOLOXPAFPN in_channels has {len(self.out_convs)} entries; the backbone gives {len(feats)} maps '
                              f'(its out_indices).')
        inner = [feats[-1]]                                        # fine to coarse
        for x, reduce, mix in zip(feats[-2::-1], self.reduce_layers, self.top_down_blocks):
            inner[0] = reduce(inner[0])
            inner.insert(0, mix(torch.cat([F.interpolate(inner[0], **self.upsample_cfg), x], 1)))
        outs = [inner[0]]
        for x, down, mix in zip(inner[1:], self.downsamples, self.bottom_up_blocks):
            outs.append(mix(torch.cat([down(outs[-1]), x], 1)))
        return tuple(conv(x) for conv, x in zip(self.out_convs, outs))
