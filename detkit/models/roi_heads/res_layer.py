"""A stage of ResNet applied to the features of regions (Mask R-CNN, https://arxiv.org/abs/1703.06870, Fig. 4 left)."""
from __future__ import annotations

from functools import partial

from mmengine.model import BaseModule
from torch import Tensor

from detkit.models.backbones.resnet import BLOCKS, residual_stage, run_stage
from detkit.nn.conv import keep_statistics
from detkit.registry import MODELS, ConfigError


@MODELS.register_module()
class ResLayer(BaseModule):
    """One ResNet stage. ``stage`` counts from 0; the other arguments are those of ResNet. Parameter names are ``layer4.0`` and so on, as in
    ResNet."""

    def __init__(self, depth: int, stage: int = 3, stride: int = 2, dilation: int = 1, style: str = 'pytorch',
                 norm_cfg: dict = dict(type='BN', requires_grad=True), norm_eval: bool = True, with_cp: bool = False,
                 init_cfg: dict | list | None = None) -> None:
        if depth not in BLOCKS or not 1 <= stage <= 3:
            raise ConfigError(f'ResLayer depth={depth} must be one of {", ".join(map(str, BLOCKS))}, and stage={stage} lie in 1..3.')
        super().__init__(init_cfg or [dict(type='Kaiming', layer='Conv2d'),
                                      dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm'])])
        self.norm_eval, self.with_cp = norm_eval, with_cp
        block, expansion, counts = BLOCKS[depth]
        width = 64 * 2**stage
        make_block = partial(block, inner=width, out_channels=width * expansion, dilation=dilation, style=style, avg_down=False,
                             conv_cfg=None, norm_cfg=norm_cfg)
        self.name = f'layer{stage + 1}'
        self.add_module(self.name, residual_stage(make_block, counts[stage], width // 2 * expansion, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Return features (n, 2C, S / stride, S / stride) from (n, C, S, S)."""
        return run_stage(getattr(self, self.name), x, self.with_cp)

    def train(self, mode: bool = True) -> ResLayer:
        """Set the mode as ``nn.Module.train`` does, but keep BatchNorm statistics fixed if ``norm_eval``."""
        super().train(mode)
        if mode and self.norm_eval:
            keep_statistics(self)
        return self
