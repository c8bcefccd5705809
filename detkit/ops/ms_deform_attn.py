"""Multi-scale deformable attention (Deformable DETR, https://arxiv.org/abs/2010.04159, eq. 3), in two implementations with equal results.

``by_grid_sample`` uses a few standard operators: it can be exported and compiled, and runs on a GPU. ``ByBag`` is for eager mode on a CPU,
where it takes less than half the time (``benchmarks/deform_attn.py``).
"""
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def ms_deform_attn(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Return for each query the weighted sum of values, sampled bilinearly at the query's points on every level; zero outside a map.

    Args:
        value: (N, S, heads, D), the maps of all levels, concatenated, in row-major order; ``shapes`` are their (height, width).
        locations: (N, Q, heads, L, P, 2) x, y in at least float32; 0 and 1 are the outer edges of a map.
        weights: (N, Q, heads, L, P), with the dtype of ``locations``.

    Returns:
        (N, Q, heads * D), with the dtype of ``value``; the sums are computed in the dtype of ``locations``.
    """
    full = value.to(locations.dtype)
    if value.device.type != 'cpu' or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return by_grid_sample(full, shapes, locations, weights).to(value.dtype)
    return ByBag.apply(full, shapes, locations, weights).to(value.dtype)


def extents(shapes: list[tuple[int, int]], device: torch.device) -> Tensor:
    """Return the width and height (L, 2) of the maps, in a form that stays symbolic in export (``torch.tensor`` would make constants)."""
    return torch.stack([torch.full((), side, dtype=torch.float32, device=device) for h, w in shapes for side in (w, h)]).view(-1, 2)


def by_grid_sample(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Compute the attention with one ``grid_sample`` per level."""
    n, _, heads, dim = value.shape
    grids = (2 * locations - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)                                  # (N * heads, L, Q, P, 2)
    levels = value.permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in shapes], -1)               # L x (N * heads, D, h * w)
    sampled = torch.cat([F.grid_sample(level.reshape(n * heads, dim, h, w), grids[:, i], mode='bilinear', align_corners=False)
                         for i, (level, (h, w)) in enumerate(zip(levels, shapes))], -1)                  # (N * heads, D, Q, L * P)
    spread = weights.flatten(3).transpose(1, 2).flatten(0, 1)[:, None]                                   # (N * heads, 1, Q, L * P)
    return (sampled * spread).sum(-1).reshape(n, heads * dim, -1).transpose(1, 2)


class ByBag(torch.autograd.Function):
    """Compute bilinear sampling and the weighted sum as one weighted sum of table rows, with ``embedding_bag`` and without intermediates.

    A row holds the D values of one head at one cell. Each map has a border of one zero cell, so that the four cells around any point exist
    (points farther outside are moved to the border). The upper left cell is at ``base``; the others are 1, width and width + 1 cells later.
    There are B = N * Q * heads sums, each over 4 corners x L * P points.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
        n, _, heads, dim = value.shape
        table = framed(value, shapes)                                                                    # (rows, D)
        base, right, down, inside = cells(locations, shapes, len(table) // (n * heads))
        rows = corner_rows(base, shapes, heads)
        out = F.embedding_bag(rows, table, mode='sum', per_sample_weights=corner_weights(right, down, weights.reshape(base.shape)))
        ctx.save_for_backward(table, base, right, down, inside, weights)
        ctx.shapes, ctx.heads = shapes, heads
        return out.view(n, -1, heads * dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        table, base, right, down, inside, weights = ctx.saved_tensors
        shapes, heads, flat = ctx.shapes, ctx.heads, weights.reshape(base.shape)
        grad = grad.reshape(len(base), -1)                                                               # (B, D)
        to_value = gradient_of_value(grad, base, corner_weights(right, down, flat), shapes, len(weights), len(table), heads)
        rows = corner_rows(base, shapes, heads)
        bag = torch.arange(len(rows), dtype=rows.dtype).repeat_interleave(rows.shape[1])
        first = torch.arange(0, rows.numel(), rows.shape[1], dtype=rows.dtype)
        corners = torch.ops.aten._embedding_bag_per_sample_weights_backward(grad, table, rows.flatten(), first, bag, 0)
        a, b, c, d = corners.view(len(base), 4, -1).unbind(1)                                            # 4 x (B, L * P)
        top, bottom = torch.lerp(a, b, right), torch.lerp(c, d, right)
        to_location = torch.stack([torch.lerp(b - a, d - c, down), bottom - top], -1) * inside * flat[..., None]
        to_location = to_location.view(*weights.shape, 2) * sides(shapes, grad)
        return to_value, None, to_location, torch.lerp(top, bottom, down).view(weights.shape)


def sides(shapes: list[tuple[int, int]], like: Tensor) -> Tensor:
    """Return width and height (L, 1, 2) of each level, in cells."""
    return like.new_tensor([[w, h] for h, w in shapes])[:, None]


def framed(value: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
    """Add a border of one zero cell to every map: (N, S, heads, D) -> (N * F * heads, D), with F cells in total."""
    n, _, heads, dim = value.shape
    table = value.new_zeros(n, sum((h + 2) * (w + 2) for h, w in shapes), heads, dim)
    for (h, w), level, frame in zip(shapes, value.split([h * w for h, w in shapes], 1),
                                    table.split([(h + 2) * (w + 2) for h, w in shapes], 1)):
        frame.view(n, h + 2, w + 2, heads, dim)[:, 1:-1, 1:-1] = level.reshape(n, h, w, heads, dim)
    return table.view(-1, dim)


def cells(locations: Tensor, shapes: list[tuple[int, int]], framed_cells: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the positions of the points in the table, each (B, L * P).

    Returns:
        int32 row of the upper left of the four cells around each point; distance to the right of it and below it, in [0, 1]; and (B, L * P,
            2) bool, False where the point is outside in x or in y, so that the gradient is zero.
    """
    n, _, heads = locations.shape[:3]
    size = sides(shapes, locations)
    place = (2 * locations - 1).add_(1).mul_(size).sub_(1).div_(2)       # in cells from the first centre; rounding as in grid_sample
    inside = (place > -1) & (place < size)
    place = place.clamp_(min=-1).minimum(size)
    low = torch.minimum(place.floor().int().clamp_(min=-1), size.int() - 1)      # the second clamp is for NaN, which a float clamp keeps
    right, down = (place - low).flatten(0, 2).flatten(1, 2).unbind(-1)
    width = torch.tensor([w + 2 for _, w in shapes], dtype=torch.int32)[:, None]
    start = torch.tensor([0, *((h + 2) * (w + 2) for h, w in shapes[:-1])], dtype=torch.int32).cumsum(0, dtype=torch.int32)[:, None]
    cell = (low[..., 1] + 1) * width + low[..., 0] + 1 + start
    image = torch.arange(n, dtype=torch.int32).view(-1, 1, 1, 1, 1) * framed_cells
    row = (cell + image) * heads + torch.arange(heads, dtype=torch.int32).view(-1, 1, 1)
    return row.view(right.shape), right.contiguous(), down.contiguous(), inside.view(*right.shape, 2)


def corner_rows(base: Tensor, shapes: list[tuple[int, int]], heads: int) -> Tensor:
    """Return the rows (B, 4 * L * P) of the four cells at ``base`` (B, L * P), in the order upper left, upper right, lower left, lower
    right."""
    points = base.shape[1] // len(shapes)
    width = torch.tensor([w + 2 for _, w in shapes], dtype=torch.int32).repeat_interleave(points)
    steps = torch.stack([torch.zeros_like(width), torch.ones_like(width), width, width + 1]) * heads     # (4, L * P)
    return (base[:, None] + steps).flatten(1)


def corner_weights(right: Tensor, down: Tensor, weights: Tensor) -> Tensor:
    """Return the bilinear factors times the attention weights, (B, 4 * L * P), corner by corner, from three tensors (B, L * P)."""
    lower = weights * down
    upper = weights - lower
    upper_right, lower_right = upper * right, lower * right
    return torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], 1).flatten(1)


def gradient_of_value(grad: Tensor, base: Tensor, factors: Tensor, shapes: list[tuple[int, int]], n: int, rows: int,
                      heads: int) -> Tensor:
    """Return the gradient (N, S, heads, D) of ``value``.

    ``grad`` (B, D), ``base`` (B, L * P), ``factors`` (B, 4 * L * P); ``rows``: number of rows of the table. Points are sorted once by their
    upper left cell. Then, for each corner, each cell sums over its points, and the sum is added to the cell to the right, below, or both.
    """
    order = base.flatten().sort(stable=True).indices
    count = torch.bincount(base.flatten(), minlength=rows)
    first = count.cumsum(0) - count
    source = order // base.shape[1]
    factors = factors.view(len(base), 4, -1).transpose(0, 1).reshape(4, -1)
    corners = [F.embedding_bag(source, grad, first, mode='sum', per_sample_weights=f[order]).view(n, -1, heads, grad.shape[1])
               for f in factors]
    levels = []
    for i, (h, w) in enumerate(shapes):
        start = sum((a + 2) * (b + 2) for a, b in shapes[:i])
        a, b, c, d = (x[:, start:start + (h + 2) * (w + 2)].view(n, h + 2, w + 2, heads, -1) for x in corners)
        levels.append((a[:, 1:-1, 1:-1] + b[:, 1:-1, :-2] + c[:, :-2, 1:-1] + d[:, :-2, :-2]).flatten(1, 2))
    return torch.cat(levels, 1)
