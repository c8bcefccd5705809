"""CSPNeXt, RTMDet's backbone (https://arxiv.org/abs/2212.07784, Sec. 3.2)."""
from __future__ import annotations

import torch.nn as nn

from detkit.nn.conv import ConvModule
from detkit.nn.csp import INIT, CSPBackbone, csp_stages
from detkit.registry import MODELS, ConfigError

# per stage: input channels, output channels, blocks, shortcut in blocks, spatial pyramid pooling
STAGES = {'P5': [[64, 128, 3, True, False], [128, 256, 6, True, False], [256, 512, 6, True, False],
                 [512, 1024, 3, False, True]],
          'P6': [[64, 128, 3, True, False], [128, 256, 6, True, False], [256, 512, 6, True, False],
                 [512, 768, 3, True, False], [768, 1024, 3, False, True]]}


@MODELS.register_module()
class CSPNeXt(CSPBackbone):
    """A stem of three 3x3 convolutions (stride 2), then stages, each with stride 2.

    Args:
        arch: ``P5`` (strides up to 32) or ``P6`` (up to 64); ``arch_ovewrite`` replaces its table (MMDetection's spelling).
        deepen_factor, widen_factor: factors of the number of blocks and of channels in every stage.
        out_indices: indices of the returned maps: 0 is the stem, i is stage i.
        frozen_stages: freeze the stem (0) and this many stages; -1: freeze nothing.
        norm_eval: keep BatchNorm statistics fixed during training.
    """

    def __init__(self, arch: str = 'P5', deepen_factor: float = 1., widen_factor: float = 1., out_indices: tuple[int, ...] = (2, 3, 4),
                 frozen_stages: int = -1, use_depthwise: bool = False, expand_ratio: float = 0.5,
                 arch_ovewrite: list[list] | None = None, spp_kernel_sizes: tuple[int, ...] = (5, 9, 13), channel_attention: bool = True,
                 conv_cfg: dict | None = None, norm_cfg: dict = dict(type='BN', momentum=0.03, eps=0.001),
                 act_cfg: dict = dict(type='SiLU'), norm_eval: bool = False, init_cfg: dict | None = None) -> None:
        if arch not in STAGES and not arch_ovewrite:
            raise ConfigError(f"CSPNeXt arch '{arch}' is unknown. Known: {', '.join(STAGES)}.")
        table = arch_ovewrite or STAGES[arch]
        options = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        width, half = int(table[0][0] * widen_factor), int(table[0][0] * widen_factor // 2)
        stem = nn.Sequential(ConvModule(3, half, 3, 2, 1, **options), ConvModule(half, half, 3, 1, 1, **options),
                             ConvModule(half, width, 3, 1, 1, **options))
        stages = csp_stages(table, widen_factor, deepen_factor, spp_kernel_sizes, use_depthwise,
                            dict(expand_ratio=expand_ratio, channel_attention=channel_attention), **options)
        super().__init__(stem, stages, out_indices, frozen_stages, norm_eval, init_cfg or INIT)
