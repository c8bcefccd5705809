"""Global context block (GCNet, https://arxiv.org/abs/1904.11492), with mmcv's parameter names."""
from __future__ import annotations

from collections.abc import Sequence

import torch.nn as nn
from torch import Tensor

from detkit.nn.operators import Add, Multiply
from detkit.registry import MODELS, ConfigError

POOLINGS, FUSIONS = ('att', 'avg'), ('channel_add', 'channel_mul')


@MODELS.register_module()
class ContextBlock(nn.Module):
    """Pool the map to one vector, transform it in a bottleneck, and add it to (or multiply it with) every position (Fig. 4d).

    Args:
        ratio: hidden channels of the bottleneck, relative to ``in_channels``.
        pooling_type: ``att``: mean weighted by learnt attention; ``avg``: plain mean.
        fusion_types: ``channel_add``, ``channel_mul`` (with the sigmoid of the vector), or both.
    """

    def __init__(self, in_channels: int, ratio: float, pooling_type: str = 'att', fusion_types: Sequence[str] = ('channel_add',)) -> None:
        super().__init__()
        if pooling_type not in POOLINGS or not fusion_types or set(fusion_types) - set(FUSIONS):
            raise ConfigError(f"ContextBlock pooling_type='{pooling_type}' must be one of {', '.join(POOLINGS)}, and fusion_types="
                              f'{tuple(fusion_types)} some of {", ".join(FUSIONS)}.')
        hidden = int(in_channels * ratio)
        self.conv_mask = self.channel_mul_conv = self.channel_add_conv = None
        if pooling_type == 'att':
            self.conv_mask = nn.Conv2d(in_channels, 1, 1)
            nn.init.kaiming_normal_(self.conv_mask.weight, nonlinearity='relu')
            nn.init.zeros_(self.conv_mask.bias)
        else:
            self.pool = nn.AdaptiveAvgPool2d(1)
        if 'channel_add' in fusion_types:
            self.channel_add_conv, self.add = transform(in_channels, hidden), Add()
        if 'channel_mul' in fusion_types:
            self.channel_mul_conv, self.sigmoid, self.multiply = transform(in_channels, hidden), nn.Sigmoid(), Multiply()

    def forward(self, x: Tensor) -> Tensor:
        """Add the context to x (N, C, H, W); the shape is kept."""
        context, out = self.context(x), x
        if self.channel_mul_conv is not None:
            out = self.multiply(out, self.sigmoid(self.channel_mul_conv(context)))
        if self.channel_add_conv is not None:
            out = self.add(out, self.channel_add_conv(context))
        return out

    def context(self, x: Tensor) -> Tensor:
        """Return the pooled vector (N, C, 1, 1) of x (N, C, H, W)."""
        if self.conv_mask is None:
            return self.pool(x)
        weights = self.conv_mask(x).flatten(2).softmax(2).transpose(1, 2)                 # (N, HW, 1)
        return (x.flatten(2) @ weights)[..., None]


def transform(channels: int, hidden: int) -> nn.Sequential:
    """Return the bottleneck. Its last layer is initialised to zero, so that ``channel_add`` starts as the identity."""
    layers = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(inplace=True),
                           nn.Conv2d(hidden, channels, 1))
    nn.init.zeros_(layers[-1].weight)
    nn.init.zeros_(layers[-1].bias)
    return layers
