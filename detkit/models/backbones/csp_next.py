"""CSPNeXt, RTMDet's backbone (https://arxiv.org/abs/2212.07784, Sec. 3.2)."""
from __future__ import annotations

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.nn.conv import ConvModule
from detkit.nn.csp import csp_stages
from detkit.registry import MODELS, ConfigError

# input channels, output channels, blocks, shortcut in blocks, spatial pyramid pooling
STAGES = {'P5': [[64, 128, 3, True, False], [128, 256, 6, True, False], [256, 512, 6, True, False],
                 [512, 1024, 3, False, True]],
          'P6': [[64, 128, 3, True, False], [128, 256, 6, True, False], [256, 512, 6, True, False],
                 [512, 768, 3, True, False], [768, 1024, 3, False, True]]}


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
        stages = csp_stages(table, widen_factor, deepen_factor, spp_kernel_sizes, use_depthwise,
                            dict(expand_ratio=expand_ratio, channel_attention=channel_attention), **options)
        for i, stage in enumerate(stages, 1):
            self.add_module(f'stage{i}', stage)
            self.layers.append(f'stage{i}')
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
