"""Feed-forward networks, with mmcv's parameter names."""
from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from detkit.nn.conv import build_activation
from detkit.nn.operators import Add
from detkit.registry import ConfigError


class FFN(nn.Module):
    """``num_fcs`` linear layers with a shortcut; hidden layers have ``feedforward_channels`` channels, activation and dropout."""

    def __init__(self, embed_dims: int = 256, feedforward_channels: int = 1024, num_fcs: int = 2,
                 act_cfg: dict = dict(type='ReLU', inplace=True), ffn_drop: float = 0., add_identity: bool = True) -> None:
        super().__init__()
        if num_fcs < 2:
            raise ConfigError(f'FFN num_fcs={num_fcs} must be at least 2.')
        self.embed_dims = embed_dims
        widths = [embed_dims, *[feedforward_channels] * (num_fcs - 1)]
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), build_activation(act_cfg), nn.Dropout(ffn_drop))
                                      for a, b in zip(widths, widths[1:])),
                                    nn.Linear(widths[-1], embed_dims), nn.Dropout(ffn_drop))
        self.add = Add() if add_identity else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the network to (..., embed_dims); the shape is kept."""
        return self.layers(x) if self.add is None else self.add(x, self.layers(x))


class MLP(nn.Module):
    """``num_layers`` linear layers with ReLU between them."""

    def __init__(self, in_channels: int, channels: int, out_channels: int, num_layers: int) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * (num_layers - 1), out_channels]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))
        self.relus = nn.ModuleList(nn.ReLU() for _ in self.layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_channels) from (..., in_channels)."""
        for layer, relu in zip(self.layers, self.relus):
            x = relu(layer(x))
        return self.layers[-1](x)
