"""CSPDarknet, YOLOX's backbone (https://arxiv.org/abs/2107.08430; YOLOv4, https://arxiv.org/abs/2004.10934, Sec. 3.2)."""
from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from detkit.nn.conv import ConvModule
from detkit.nn.csp import INIT, CSPBackbone, DarknetBottleneck, csp_stages
from detkit.nn.operators import Concat
from detkit.registry import MODELS, ConfigError

# per stage: input channels, output channels, blocks, shortcut in blocks, spatial pyramid pooling
STAGES = {'P5': [[64, 128, 3, True, False], [128, 256, 9, True, False], [256, 512, 9, True, False],
                 [512, 1024, 3, False, True]],
          'P6': [[64, 128, 3, True, False], [128, 256, 9, True, False], [256, 512, 9, True, False],
                 [512, 768, 3, True, False], [768, 1024, 3, False, True]]}


class Focus(nn.Module):
    """Move the four pixels of each 2x2 square into the channels, then apply a convolution: stride 2 that uses every pixel."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, **options: object) -> None:
        super().__init__()
        self.concat = Concat()
        self.conv = ConvModule(in_channels * 4, out_channels, kernel_size, padding=(kernel_size - 1) // 2, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (N, C', H / 2, W / 2) from (N, C, H, W) with even sides."""
        left, right = x[..., ::2], x[..., 1::2]
        return self.conv(self.concat(left[..., ::2, :], left[..., 1::2, :], right[..., ::2, :], right[..., 1::2, :]))


@MODELS.register_module()
class CSPDarknet(CSPBackbone):
    """Focus, then stages, each with stride 2.

    Args:
        arch: ``P5`` (strides up to 32) or ``P6`` (up to 64); ``arch_ovewrite`` replaces its table (MMDetection's spelling).
        deepen_factor, widen_factor: factors of the number of blocks and of channels in every stage.
        out_indices: indices of the returned maps: 0 is the stem, i is stage i.
        frozen_stages: freeze the stem (0) and this many stages; -1: freeze nothing.
        spp_kernal_sizes: kernel sizes of the max pools in the last stage, odd, ascending (MMDetection's spelling).
        norm_eval: keep BatchNorm statistics fixed during training.
    """

    def __init__(self, arch: str = 'P5', deepen_factor: float = 1., widen_factor: float = 1., out_indices: tuple[int, ...] = (2, 3, 4),
                 frozen_stages: int = -1, use_depthwise: bool = False, arch_ovewrite: list[list] | None = None,
                 spp_kernal_sizes: tuple[int, ...] = (5, 9, 13), conv_cfg: dict | None = None,
                 norm_cfg: dict = dict(type='BN', momentum=0.03, eps=0.001), act_cfg: dict = dict(type='Swish'), norm_eval: bool = False,
                 init_cfg: dict | None = INIT) -> None:
        if arch not in STAGES and not arch_ovewrite:
            raise ConfigError(f"CSPDarknet arch '{arch}' is unknown. Known: {', '.join(STAGES)}.")
        table = arch_ovewrite or STAGES[arch]
        options = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        stem = Focus(3, int(table[0][0] * widen_factor), 3, **options)
        stages = csp_stages(table, widen_factor, deepen_factor, spp_kernal_sizes, use_depthwise, dict(block=DarknetBottleneck), **options)
        super().__init__(stem, stages, out_indices, frozen_stages, norm_eval, init_cfg)
