"""CSPNeXt, RTMDet's backbone (https://arxiv.org/abs/2212.07784, Sec. 3.2)."""
from __future__ import annotations

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.nn.conv import ConvModule, DepthwiseSeparableConvModule
from detkit.nn.csp import CSPLayer
from detkit.registry import MODELS, ConfigError

# input channels, output channels, blocks, shortcut in blocks, spatial pyramid pooling
STAGES = {'P5': [[64, 128, 3, True, False], [128, 256, 6, True, False], [256, 512, 6, True, False],
                 [512, 1024, 3, False, True]],
          'P6': [[64, 128, 3, True, False], [128, 256, 6, True, False], [256, 512, 6, True, False],
                 [512, 768, 3, True, False], [768, 1024, 3, False, True]]}


class SPPBottleneck(nn.Module):
    """Max pools of several sizes side by side (SPP, https://arxiv.org/abs/1406.4729)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_sizes: tuple[int, ...], **options: object) -> None:
        super().__init__()
        mid = in_channels // 2
        self.conv1 = ConvModule(in_channels, mid, 1, **options)
        self.poolings = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in kernel_sizes)
        self.conv2 = ConvModule(mid * (len(kernel_sizes) + 1), out_channels, 1, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *(pool(x) for pool in self.poolings)], 1))


@MODELS.register_module()
class CSPNeXt(BaseModule):
    """Stem of three 3x3 convolutions (stride 2), then stages, each with stride 2.

    Args:
        arch: ``P5`` (strides up to 32) or ``P6`` (64); ``arch_ovewrite`` replaces its table (MMDetection's spelling).
        deepen_factor, widen_factor: multiply the blocks and channels of every stage.
        out_indices: 0 is the stem's map, i that of stage i.
        frozen_stages: the stem (0) and this many stages learn nothing; -1: all learn.
        norm_eval: BatchNorm keeps its statistics during training.
    """

    def __init__(self, arch: str = 'P5', deepen_factor: float = 1., widen_factor: float = 1., out_indices: tuple = (2, 3, 4),
                 frozen_stages: int = -1, use_depthwise: bool = False, expand_ratio: float = 0.5,
                 arch_ovewrite: list | None = None, spp_kernel_sizes: tuple = (5, 9, 13), channel_attention: bool = True,
                 conv_cfg: dict | None = None, norm_cfg: dict = dict(type='BN', momentum=0.03, eps=0.001),
                 act_cfg: dict = dict(type='SiLU'), norm_eval: bool = False, init_cfg: dict | None = None) -> None:
        if arch not in STAGES and not arch_ovewrite:
            raise ConfigError(f"CSPNeXt arch '{arch}' is unknown. Known: {', '.join(STAGES)}.")
        table = arch_ovewrite or STAGES[arch]
        if not set(out_indices) <= set(range(len(table) + 1)) or frozen_stages not in range(-1, len(table) + 1):
            raise ConfigError(f'CSPNeXt out_indices={tuple(out_indices)} and frozen_stages={frozen_stages} must lie in '
                              f'0..{len(table)} (frozen_stages may be -1).')
        super().__init__(init_cfg or dict(type='Kaiming', layer='Conv2d', a=5**0.5, distribution='uniform', mode='fan_in',
                                          nonlinearity='leaky_relu'))
        self.out_indices, self.frozen_stages, self.norm_eval = tuple(out_indices), frozen_stages, norm_eval
        options = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        stem = int(table[0][0] * widen_factor)
        half = int(table[0][0] * widen_factor // 2)
        self.stem = nn.Sequential(ConvModule(3, half, 3, 2, 1, **options), ConvModule(half, half, 3, 1, 1, **options),
                                  ConvModule(half, stem, 3, 1, 1, **options))
        self.layers = ['stem']
        down = DepthwiseSeparableConvModule if use_depthwise else ConvModule
        for i, (c_in, c_out, blocks, identity, pool) in enumerate(table):
            c_in, c_out, blocks = int(c_in * widen_factor), int(c_out * widen_factor), max(round(blocks * deepen_factor), 1)
            stage = [down(c_in, c_out, 3, 2, 1, **options)]
            if pool:
                stage.append(SPPBottleneck(c_out, c_out, spp_kernel_sizes, **options))
            stage.append(CSPLayer(c_out, c_out, expand_ratio, blocks, identity, use_depthwise, channel_attention, **options))
            self.add_module(f'stage{i + 1}', nn.Sequential(*stage))
            self.layers.append(f'stage{i + 1}')
        self.freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> one map per entry of ``out_indices``, strides 2 * 2**index."""
        outs = []
        for i, name in enumerate(self.layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def freeze(self) -> None:
        for name in self.layers[:self.frozen_stages + 1]:
            getattr(self, name).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> 'CSPNeXt':
        """As nn.Module.train, then freezes the first stages and (``norm_eval``) all BatchNorm statistics."""
        super().train(mode)
        self.freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
