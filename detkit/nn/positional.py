"""Positional encodings of the cells of a feature map."""
from __future__ import annotations

import math

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from detkit.registry import MODELS, ConfigError


def sines(coordinates: Tensor, num_feats: int, temperature: float = 10000, scale: float = 2 * math.pi) -> Tensor:
    """Return sines and cosines, alternating, of coordinates (...): (..., num_feats). Wavelengths range from 2 pi to 2 pi * ``temperature``
    (DETR, Sec. A.4).

    Always computed in float32. The default ``scale`` is for coordinates in [0, 1].
    """
    steps = torch.arange(num_feats, dtype=torch.float32, device=coordinates.device)
    waves = temperature**(2 * torch.div(steps, 2, rounding_mode='floor') / num_feats)
    angles = coordinates.float()[..., None] * scale / waves
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], -1).flatten(-2)


@MODELS.register_module()
class SinePositionalEncoding(BaseModule):
    """Sine encoding of a cell's row and column, with ``num_feats`` channels each (DETR, https://arxiv.org/abs/2005.12872, Sec. A.4).

    ``normalize``: add ``offset`` cells to rows and columns, divide by the size of the image in cells, and multiply by ``scale``; otherwise
    coordinates are in cells.
    """

    def __init__(self, num_feats: int, temperature: int = 10000, normalize: bool = False, scale: float = 2 * math.pi,
                 eps: float = 1e-6, offset: float = 0., init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.num_feats, self.temperature, self.normalize = num_feats, temperature, normalize
        self.scale, self.eps, self.offset = scale, eps, offset

    def forward(self, size: tuple[int, int], device: torch.device, inside: Tensor | None = None) -> Tensor:
        """Return the encoding (N, height, width, 2 * num_feats), row then column; N is 1 without padding.

        ``size``: (height, width) of the map. ``inside`` (N, 2): number of columns and rows, (x, y), of the image without padding.
        """
        y, x = (self.along(cells, device, None if inside is None else inside[:, i]) for i, cells in ((1, size[0]), (0, size[1])))
        return torch.cat([y[:, :, None].expand(-1, -1, size[1], -1), x[:, None].expand(-1, size[0], -1, -1)], -1)

    def along(self, cells: int, device: torch.device, inside: Tensor | None) -> Tensor:
        """Return the encoding along one axis, (N, cells, num_feats). ``inside`` (N,)."""
        place = torch.arange(1, cells + 1, dtype=torch.float32, device=device)[None]
        if inside is not None:
            place = torch.minimum(place, inside[:, None])
        if self.normalize:
            place = (place + self.offset) / (place[:, -1:] + self.eps)
        return sines(place, self.num_feats, self.temperature, self.scale if self.normalize else 1.)


@MODELS.register_module()
class LearnedPositionalEncoding(BaseModule):
    """A learnt embedding for each column and each row, with ``num_feats`` channels each.

    ``row_num_embed``, ``col_num_embed``: max rows and columns of a map.
    """

    def __init__(self, num_feats: int, row_num_embed: int = 50, col_num_embed: int = 50,
                 init_cfg: dict | None = dict(type='Uniform', layer='Embedding')) -> None:
        super().__init__(init_cfg)
        self.num_feats = num_feats
        self.row_embed, self.col_embed = nn.Embedding(row_num_embed, num_feats), nn.Embedding(col_num_embed, num_feats)

    def forward(self, size: tuple[int, int], device: torch.device, inside: Tensor | None = None) -> Tensor:
        """Return the encoding (1, height, width, 2 * num_feats), column then row; padding makes no difference.

        Raises:
            ValueError: the map is larger than the tables.
        """
        height, width = size
        if not torch.compiler.is_exporting() and (height > self.row_embed.num_embeddings or width > self.col_embed.num_embeddings):
            raise ValueError(f'a map of {height}x{width} cells exceeds LearnedPositionalEncoding(row_num_embed='
                             f'{self.row_embed.num_embeddings}, col_num_embed={self.col_embed.num_embeddings}).')
        x, y = self.col_embed.weight[:width], self.row_embed.weight[:height]
        return torch.cat([x[None].expand(height, -1, -1), y[:, None].expand(-1, width, -1)], -1)[None]


def build_encoding(cfg: dict, embed_dims: int) -> nn.Module:
    """Build the encoding of ``cfg``; sine encoding if it has no type.

    Raises:
        ConfigError: the encoding's channels are not ``embed_dims``.
    """
    encoding = MODELS.build(cfg, default_args=dict(type='SinePositionalEncoding'))
    if encoding.num_feats * 2 != embed_dims:
        raise ConfigError(f'positional_encoding num_feats={encoding.num_feats} must be half of the embed_dims={embed_dims}.')
    return encoding
