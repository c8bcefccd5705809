"""Non-local block: self-attention over the positions of a map (https://arxiv.org/abs/1711.07971)."""
from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from detkit.nn.conv import ConvModule
from detkit.nn.operators import Add


class NonLocal2d(nn.Module):
    """The embedded Gaussian version, with a shortcut (Sec. 3.2 and 3.3).

    Args:
        reduction: the hidden width is ``in_channels // reduction``.
        use_scale: divide the similarities by the square root of the hidden width before the softmax.
    """

    def __init__(self, in_channels: int, reduction: int = 2, use_scale: bool = True, conv_cfg: dict | None = None,
                 norm_cfg: dict | None = None) -> None:
        super().__init__()
        inner = max(in_channels // reduction, 1)
        self.scale = inner**-0.5 if use_scale else 1.
        self.g = ConvModule(in_channels, inner, 1, conv_cfg=conv_cfg, act_cfg=None)
        self.theta = ConvModule(in_channels, inner, 1, conv_cfg=conv_cfg, act_cfg=None)
        self.phi = ConvModule(in_channels, inner, 1, conv_cfg=conv_cfg, act_cfg=None)
        self.conv_out = ConvModule(inner, in_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=None)
        self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x (N, C, H, W); the shape is kept."""
        query, key, value = (conv(x).flatten(2).transpose(1, 2)[:, None] for conv in (self.theta, self.phi, self.g))
        seen = nn.functional.scaled_dot_product_attention(query, key, value, scale=self.scale)       # (N, 1, HW, inner)
        return self.add(x, self.conv_out(seen[:, 0].transpose(1, 2).unflatten(2, x.shape[-2:])))
