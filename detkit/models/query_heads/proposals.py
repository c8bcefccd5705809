"""Select the encoder's best tokens as queries (two-stage Deformable DETR, https://arxiv.org/abs/2010.04159, Sec. A.4)."""
from __future__ import annotations

import torch
from torch import Tensor

from detkit.nn.tokens import Tokens

BORDER = 0.01      # a proposal is invalid if one of its four numbers is this close to 0 or 1
SMALLEST = 0.05    # side of the finest level's proposals, relative to the image; it doubles per level


def cell_boxes(tokens: Tokens, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Return the square proposal box of each cell, (N or 1, S, 4) as logits of cxcywh, and the memory (N, S, C).

    For cells in the padding or near the image border, the logits are infinite and the memory is zero.
    """
    sides = torch.cat([tokens.centers.new_full((h * w,), SMALLEST * 2**i) for i, (h, w) in enumerate(tokens.shapes)])
    boxes = torch.cat([tokens.centers, sides[:, None].expand(*tokens.centers.shape)], -1)
    outside = ~((boxes > BORDER) & (boxes < 1 - BORDER)).all(-1, keepdim=True)
    if tokens.padding is not None:
        outside = outside | tokens.padding[..., None]
    return (boxes / (1 - boxes)).log().masked_fill(outside, torch.inf), memory.masked_fill(outside, 0.)


def best_rows(scores: Tensor, count: int, *values: Tensor) -> tuple[Tensor, ...]:
    """Select the rows of each of ``values`` (N, S, c) with the highest ``scores`` (N, S), best first: (N, count, c).

    Raises:
        ValueError: there are fewer than ``count`` rows.
    """
    if not torch.compiler.is_exporting() and scores.shape[1] < count:
        raise ValueError(f"num_queries={count} queries are to start at the best of the encoder's tokens, but this input has only "
                         f'{scores.shape[1]}. Lower model.num_queries, or use larger images.')
    at = scores.topk(count, 1).indices[..., None]
    return tuple(v.gather(1, at.expand(-1, -1, v.shape[2])) for v in values)
