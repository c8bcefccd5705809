"""Multi-scale deformable attention as a layer, with mmcv's parameter names."""
from __future__ import annotations

import math

import torch
import torch.nn as nn
from torch import Tensor

from detkit.nn.operators import Add
from detkit.ops.ms_deform_attn import extents, ms_deform_attn
from detkit.registry import ConfigError


class MultiScaleDeformableAttention(nn.Module):
    """Each query samples ``num_points`` points per head and level around its reference (https://arxiv.org/abs/2010.04159, Sec. 4.1).

    Args:
        dropout: dropout of the output, before it is added to the query.
        im2col_step: a setting of mmcv's CUDA kernel; it does not change results.
        value_proj_ratio: channels of the values, relative to ``embed_dims``.
    """

    def __init__(self, embed_dims: int = 256, num_heads: int = 8, num_levels: int = 4, num_points: int = 4, im2col_step: int = 64,
                 dropout: float = 0.1, batch_first: bool = True, value_proj_ratio: float = 1.) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ConfigError(f'embed_dims={embed_dims} is not divisible by num_heads={num_heads}.')
        refuse_batch_second(batch_first)
        self.embed_dims, self.num_heads, self.num_levels, self.num_points = embed_dims, num_heads, num_levels, num_points
        width = int(embed_dims * value_proj_ratio)
        self.sampling_offsets = nn.Linear(embed_dims, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(embed_dims, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(embed_dims, width)
        self.output_proj = nn.Linear(width, embed_dims)
        self.dropout = nn.Dropout(dropout)
        self.add_query_pos, self.add = Add(), Add()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the offsets: the directions of the heads are evenly spaced on a circle, point p is p cells away, and all points have
        equal weight (Sec. A.2)."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angles.cos(), angles.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = (direction[:, None, None] * steps[:, None]).expand(-1, self.num_levels, -1, -1)        # (heads, L, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, memory: Tensor, query_pos: Tensor | None, references: Tensor, shapes: list[tuple[int, int]],
                padding: Tensor | None = None) -> Tensor:
        """Return the query plus the attention output, (N, Q, C).

        Args:
            query: (N, Q, C).
            query_pos: added to the query for the prediction of offsets and weights.
            memory: (N, S, C), the maps of all levels, concatenated; ``shapes`` are their (height, width).
            references: (N, Q, L, 2) centres x, y, or (N, Q, L, 4) boxes cxcywh, normalised by the size of each level's map. Offsets are in
                cells from a centre, or in units of half the box size.
            padding: (N, S) bool, True: the values of this cell are masked with zeros.

        Raises:
            ConfigError: the number of maps is not ``num_levels``.
        """
        if len(shapes) != self.num_levels:
            raise ConfigError(f'deformable attention has num_levels={self.num_levels}, but is given {len(shapes)} feature maps. '
                              f"Its num_levels (encoder and decoder), the model's num_feature_levels and the neck's num_outs must agree.")
        value = self.value_proj(memory)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.)
        where = query if query_pos is None else self.add_query_pos(query, query_pos)
        points = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(where).unflatten(-1, (*points, 2)).float()                       # (N, Q, heads, L, P, 2)
        weights = self.attention_weights(where).unflatten(-1, (self.num_heads, -1)).float().softmax(-1).unflatten(-1, points[1:])
        if references.shape[-1] == 2:
            offsets = offsets / extents(shapes, offsets.device)[:, None]
        else:
            offsets = offsets * (references[:, :, None, :, None, 2:] * (0.5 / self.num_points))
        locations = references[:, :, None, :, None, :2] + offsets
        seen = ms_deform_attn(value.unflatten(-1, (self.num_heads, -1)), shapes, locations, weights)
        return self.add(query, self.dropout(self.output_proj(seen)))


def refuse_batch_second(batch_first: bool) -> None:
    """Raise ConfigError for ``batch_first=False``: all sequences are (N, length, C)."""
    if not batch_first:
        raise ConfigError('attention takes (N, length, C); batch_first=False is not supported. Leave it out or set it to True.')
