"""Sample maps at points, and choose points where a mask is uncertain (PointRend, https://arxiv.org/abs/1912.08193)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Return maps (N, C, h, w), sampled bilinearly at ``points`` (N, ..., 2): (N, C, ...); zero outside.

    Points are normalised x, y: 0 and 1 are the outer edges of the map.
    """
    grid = points.flatten(1, -2)[:, None] * 2 - 1
    return F.grid_sample(maps, grid.to(maps.dtype), align_corners=False).reshape(*maps.shape[:2], *points.shape[1:-1])


def to_grid(pixels: Tensor, size: int) -> Tensor:
    """Convert pixels (0 is the centre of the first) to grid_sample's coordinates: -1 and 1 are the borders."""
    return (2 * pixels + 1) / size - 1


@torch.no_grad()
def uncertain_points(logits: Tensor, num_points: int, oversample_ratio: float, importance_sample_ratio: float,
                     generator: torch.Generator | None = None) -> Tensor:
    """Return points for the mask loss (Sec. 3.3): the fraction ``importance_sample_ratio`` of them is the most uncertain (logit nearest to
    0) of ``oversample_ratio`` times ``num_points`` uniform points; the others are uniform.

    ``logits`` (n, h, w) are interpolated at the points, because between cells of -1 and 1 a logit can be 0. ``generator``: on the device of
    the logits. Returns (n, num_points, 2) x, y in [0, 1].
    """
    def drawn(count: int) -> Tensor:
        return torch.rand(len(logits), count, 2, generator=generator, device=logits.device)

    num_uncertain = int(importance_sample_ratio * num_points)
    tried = drawn(int(num_points * oversample_ratio))
    distance = sample_points(logits[:, None].detach(), tried)[:, 0].abs()
    chosen = distance.topk(num_uncertain, largest=False, sorted=False).indices
    kept = tried.gather(1, chosen[..., None].expand(-1, -1, 2))
    return torch.cat([kept, drawn(num_points - num_uncertain)], 1)
