"""Maps at points between their cells, and where to look (PointRend, https://arxiv.org/abs/1912.08193)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """(N, C, h, w) at ``points`` (N, ..., 2) -> (N, C, ...), bilinear; zero outside.

    Points are x, y as shares of the map: 0 and 1 are its outer edges.
    """
    grid = points.flatten(1, -2)[:, None] * 2 - 1
    return F.grid_sample(maps, grid.to(maps.dtype), align_corners=False).reshape(*maps.shape[:2], *points.shape[1:-1])


def to_grid(pixels: Tensor, size: int) -> Tensor:
    """Pixels, 0 the middle of the first, as grid_sample counts: -1 and 1 are the borders."""
    return (2 * pixels + 1) / size - 1


@torch.no_grad()
def uncertain_points(logits: Tensor, num_points: int, oversample_ratio: float, importance_sample_ratio: float,
                     generator: torch.Generator | None = None) -> Tensor:
    """Points at which to train masks (Sec. 3.3): of ``oversample_ratio`` times as many, drawn evenly, those whose logit is nearest to 0,
    a share of ``importance_sample_ratio``; the others are drawn evenly.

    ``logits`` (n, h, w), sampled at the points themselves: between cells of -1 and 1 lies one of 0. ``generator``: of the logits' device.
    Returns (n, num_points, 2) x, y in [0, 1].
    """
    def drawn(count: int) -> Tensor:
        return torch.rand(len(logits), count, 2, generator=generator, device=logits.device)

    num_uncertain = int(importance_sample_ratio * num_points)
    tried = drawn(int(num_points * oversample_ratio))
    distance = sample_points(logits[:, None].detach(), tried)[:, 0].abs()
    chosen = distance.topk(num_uncertain, largest=False, sorted=False).indices
    kept = tried.gather(1, chosen[..., None].expand(-1, -1, 2))
    return torch.cat([kept, drawn(num_points - num_uncertain)], 1)
