"""Flatten feature maps of several levels into one sequence of tokens."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.ops.ms_deform_attn import extents


@dataclass(frozen=True)
class Tokens:
    """S cells of L levels, level by level, in row-major order."""

    feats: Tensor                    # (N, S, C)
    pos: Tensor                      # (N, S, C) or (1, S, C): positional encoding, including the level embedding
    shapes: list[tuple[int, int]]    # L x (height, width)
    centers: Tensor                  # (N, S, 2) or (1, S, 2): x, y of centres, normalised by the unpadded image
    ratios: Tensor                   # (N, L, 2) or (1, L, 2): fraction of each level's width and height inside the image
    padding: Tensor | None           # (N, S) bool: True for cells outside the image; None: no padding

    def references(self) -> Tensor:
        """Return the reference points of the cells on every level for deformable attention, (N, S, L, 2)."""
        return self.centers[:, :, None] * self.ratios[:, None]


def flatten_levels(feats: tuple[Tensor, ...], encoding: Callable[..., Tensor], level_embed: Tensor | None = None,
                   sizes: Tensor | None = None, input_size: tuple[int, int] | None = None) -> Tokens:
    """Flatten feature maps into tokens.

    Args:
        feats: L x (N, C, h, w).
        encoding: positional encoding, as in ``detkit.nn.positional``.
        level_embed: (L, C), added to the positional encoding.
        sizes: (N, 2) height and width of each image in a batch padded to ``input_size``; None: no padding.
    """
    tokens, pos, centers, ratios, padding, shapes = [], [], [], [], [], []
    sizes = None if sizes is None else sizes.to(feats[0].device)
    for i, x in enumerate(feats):
        height, width = x.shape[-2:]
        rows, columns = (None, None) if sizes is None else (cells_inside(sizes[:, k], input_size[k], x.shape[2 + k]) for k in (0, 1))
        whole = extents([(height, width)], x.device)[0]
        inside = None if sizes is None else torch.stack([columns.sum(1), rows.sum(1)], -1).float()       # (N, 2)
        place = encoding((height, width), x.device, inside).flatten(1, 2).to(x.dtype)
        pos.append(place if level_embed is None else place + level_embed[i])
        centers.append(cell_centers(height, width, x.device) / (whole if inside is None else inside[:, None]))
        ratios.append(torch.ones_like(whole)[None] if inside is None else inside / whole)
        if sizes is not None:
            padding.append(~(rows[:, :, None] & columns[:, None]).flatten(1))
        tokens.append(x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1]))
        shapes.append((height, width))
    return Tokens(torch.cat(tokens, 1), torch.cat(pos, 1), shapes, torch.cat(centers, 1), torch.stack(ratios, 1),
                  torch.cat(padding, 1) if padding else None)


def cells_inside(lengths: Tensor, padded: int, cells: int) -> Tensor:
    """Return a mask (N, cells) bool of the cells whose first pixel is inside the image, for images with ``lengths`` (N,) in pixels, padded
    to ``padded`` pixels."""
    pixels = torch.arange(padded, device=lengths.device) < lengths[:, None]
    return F.interpolate(pixels[:, None].float(), size=cells)[:, 0] > 0


def cell_centers(height: int, width: int, device: torch.device) -> Tensor:
    """Return the centres (1, height * width, 2) x, y in cells, in row-major order."""
    x = torch.arange(width, dtype=torch.float32, device=device) + 0.5
    y = torch.arange(height, dtype=torch.float32, device=device) + 0.5
    return torch.stack([x[None].expand(height, -1), y[:, None].expand(-1, width)], -1).reshape(1, -1, 2)
