"""Feature Pyramid Network (https://arxiv.org/abs/1612.03144)."""
from __future__ import annotations

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from detkit.nn.conv import ConvModule, check_upsampling
from detkit.nn.operators import Add, Resize
from detkit.registry import MODELS, ConfigError

EXTRA_SOURCES = ('on_input', 'on_lateral', 'on_output')


@MODELS.register_module()
class FPN(BaseModule):
    """Lateral 1x1 convolutions, a top-down sum, 3x3 output convolutions, then extra coarse levels.

    Args:
        start_level, end_level: indices of the first and last backbone map used; end_level -1: the last map.
        num_outs: number of returned levels. Extra levels are strided convolutions (``add_extra_convs`` names their input: ``on_input``
            (also True), ``on_lateral``, ``on_output``) or, if it is False, strided max pools.
        relu_before_extra_convs: apply ReLU before each extra convolution but the first.
        upsample_cfg: arguments of ``torch.nn.functional.interpolate`` for the top-down sum.
    """

    def __init__(self, in_channels: list[int], out_channels: int, num_outs: int, start_level: int = 0, end_level: int = -1,
                 add_extra_convs: bool | str = False, relu_before_extra_convs: bool = False,
                 no_norm_on_lateral: bool = False, conv_cfg: dict | None = None, norm_cfg: dict | None = None,
                 act_cfg: dict | None = None, upsample_cfg: dict = dict(mode='nearest'),
                 init_cfg: dict | None = dict(type='Xavier', layer='Conv2d', distribution='uniform')) -> None:
        super().__init__(init_cfg)
        end = len(in_channels) if end_level in (-1, len(in_channels) - 1) else end_level + 1
        used = in_channels[start_level:end]
        self.extra_source = 'on_input' if add_extra_convs is True else add_extra_convs
        if num_outs < len(used) or (end < len(in_channels) and num_outs != len(used)):
            raise ConfigError(f'FPN num_outs={num_outs} does not fit the {len(used)} backbone maps it uses '
                              f'(in_channels={list(in_channels)}, start_level={start_level}, end_level={end_level}): it must be '
                              f'{"equal" if end < len(in_channels) else "no fewer"}.')
        if self.extra_source and self.extra_source not in EXTRA_SOURCES:
            raise ConfigError(f"FPN add_extra_convs='{add_extra_convs}' is unknown. Known: {', '.join(EXTRA_SOURCES)}.")
        self.num_ins, self.first, self.end, self.num_outs = len(in_channels), start_level, end, num_outs
        check_upsampling(upsample_cfg)
        options = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg, inplace=False)
        lateral = options | (dict(norm_cfg=None) if no_norm_on_lateral else {})
        self.lateral_convs = nn.ModuleList(ConvModule(c, out_channels, 1, **lateral) for c in used)
        self.upsamples = nn.ModuleList(Resize(**upsample_cfg) for _ in used[1:])                  # from the finest level, like the sums
        self.adds = nn.ModuleList(Add() for _ in used[1:])
        self.fpn_convs = nn.ModuleList(ConvModule(out_channels, out_channels, 3, padding=1, **options) for _ in used)
        extra = range(num_outs - len(used))
        self.extra_pools = nn.ModuleList(nn.MaxPool2d(1, stride=2) for _ in extra if not self.extra_source)
        self.extra_relus = nn.ModuleList()
        for i in extra if self.extra_source else ():
            self.extra_relus.append(nn.ReLU() if relu_before_extra_convs and i > 0 else nn.Identity())
            c = used[-1] if i == 0 and self.extra_source == 'on_input' else out_channels
            self.fpn_convs.append(ConvModule(c, out_channels, 3, stride=2, padding=1, **options))

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return ``num_outs`` maps of ``out_channels``, each half the size of the previous one, from the backbone's maps, fine to coarse.

        Raises:
            ConfigError: the number of maps is not the length of ``in_channels``.
        """
        if len(feats) != self.num_ins:
            raise ConfigError(f'FPN in_channels has {self.num_ins} entries; the backbone gives {len(feats)} maps (its out_indices).')
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, feats[self.first:self.end])]
        for i in range(len(laterals) - 1, 0, -1):
            upsampled = self.upsamples[i - 1](laterals[i], laterals[i - 1].shape[-2:])
            laterals[i - 1] = self.adds[i - 1](laterals[i - 1], upsampled)
        outs = [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
        for pool in self.extra_pools:
            outs.append(pool(outs[-1]))
        sources = dict(on_input=feats[self.end - 1], on_lateral=laterals[-1], on_output=outs[-1])
        for i, relu in enumerate(self.extra_relus):
            outs.append(self.fpn_convs[len(outs)](relu(sources[self.extra_source] if i == 0 else outs[-1])))
        return tuple(outs)
