"""Operations on feature maps as modules without parameters.

A network holds one module for each place where maps are added, multiplied, concatenated or resized, so that tools that work on modules
(quantisers, forward hooks, pruners) can distinguish the places. They do not appear in state dicts.
"""
from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class Add(nn.Module):
    """The sum of two tensors whose shapes broadcast."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Multiply(nn.Module):
    """The elementwise product of two tensors whose shapes broadcast."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b


class Mean(nn.Module):
    """The elementwise mean of tensors of one shape."""

    def forward(self, *tensors: Tensor) -> Tensor:
        return sum(tensors) / len(tensors)


class Concat(nn.Module):
    """Concatenate tensors along ``dim``, by default the channels of (N, C, H, W) maps."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *tensors: Tensor) -> Tensor:
        return torch.cat(tensors, self.dim)

    def extra_repr(self) -> str:
        return f'dim={self.dim}'


class Resize(nn.Module):
    """``torch.nn.functional.interpolate`` with these arguments: by ``scale_factor``, or to the ``size`` passed to ``forward``."""

    def __init__(self, scale_factor: float | tuple[float, float] | None = None, mode: str = 'nearest', align_corners: bool | None = None,
                 recompute_scale_factor: bool | None = None, antialias: bool = False) -> None:
        super().__init__()
        self.scale_factor = scale_factor
        self.options = dict(mode=mode, align_corners=align_corners, recompute_scale_factor=recompute_scale_factor, antialias=antialias)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Resize x (N, C, H, W) to (N, C, H', W'). ``size`` (height, width) is ignored if ``scale_factor`` is set."""
        if self.scale_factor is not None:
            return F.interpolate(x, scale_factor=self.scale_factor, **self.options)
        return F.interpolate(x, size, **self.options)

    def extra_repr(self) -> str:
        return f'scale_factor={self.scale_factor}, mode={self.options["mode"]!r}'


class MaxResize(nn.Module):
    """Downsample by adaptive max pooling: each output cell is the maximum of the input cells that it covers."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize x (N, C, H, W) to (N, C, *size)."""
        return F.adaptive_max_pool2d(x, size)
