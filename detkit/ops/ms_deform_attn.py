"""Multi-scale deformable attention (Deformable DETR, https://arxiv.org/abs/2010.04159, eq. 3)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Each query's weighted sum of values, sampled bilinearly at its own points of every level; zero outside a map.

    Args:
        value: (N, S, heads, D), the levels' maps of ``shapes`` (height, width) one after the other, row by row.
        locations: (N, Q, heads, L, P, 2) x, y; 0 and 1 are the outer edges of a map.
        weights: (N, Q, heads, L, P).

    Returns: (N, Q, heads * D).
    """
    return by_grid_sample(value, shapes, locations, weights)


def extents(shapes: list[tuple[int, int]], device: torch.device) -> Tensor:
    """(L, 2) x, y: maps' width and height, in a form that stays symbolic in export (``torch.tensor`` makes constants of them)."""
    return torch.stack([torch.full((), side, dtype=torch.float32, device=device) for h, w in shapes for side in (w, h)]).view(-1, 2)


def by_grid_sample(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """One ``grid_sample`` a level: the form that ONNX has."""
    n, _, heads, dim = value.shape
    grids = (2 * locations - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1).to(value.dtype)                  # (N * heads, L, Q, P, 2)
    levels = value.permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in shapes], -1)               # L x (N * heads, D, h * w)
    sampled = torch.cat([F.grid_sample(level.reshape(n * heads, dim, h, w), grids[:, i], mode='bilinear', align_corners=False)
                         for i, (level, (h, w)) in enumerate(zip(levels, shapes))], -1)                  # (N * heads, D, Q, L * P)
    spread = weights.flatten(3).transpose(1, 2).flatten(0, 1)[:, None].to(value.dtype)                   # (N * heads, 1, Q, L * P)
    return (sampled * spread).sum(-1).reshape(n, heads * dim, -1).transpose(1, 2)
