"""Deformable RoI pooling (https://arxiv.org/abs/1703.06211, Sec. 2.2), averaged over samples as in RoIAlign."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.ops.points import to_grid
from detkit.ops.roi_align import roi_align


def deform_roi_pool(feature: Tensor, rois: Tensor, offset: Tensor, spatial_scale: float, sampling_ratio: int = 0,
                    gamma: float = 0.1) -> Tensor:
    """RoIAlign with an offset for each bin.

    ``feature`` (N, C, H, W); ``rois`` (n, 5) index of the image, then xyxy in pixels of the network input; ``offset`` (n, 2, h, w): x and y
    shift of each bin, in units of ``gamma`` times the RoI's sides. ``sampling_ratio``: samples per bin and axis; 0: derived from the RoI's
    size. Returns (n, C, h, w), float32.
    """
    bins = moved_bins(rois.float(), offset.float(), gamma)
    if torch.is_grad_enabled() and offset.requires_grad:
        with torch.autocast(feature.device.type, enabled=False):
            return sampled_bins(feature.float(), rois[:, 0].long(), bins, spatial_scale, sampling_ratio)
    image = rois[:, 0].float()[:, None, None, None].expand(-1, 1, *offset.shape[2:])
    each = torch.cat([image, bins], 1).permute(0, 2, 3, 1).reshape(-1, 5)                # each bin as a RoI
    pooled = roi_align(feature, each, 1, spatial_scale, sampling_ratio)
    return pooled.reshape(len(rois), *offset.shape[2:], feature.shape[1]).permute(0, 3, 1, 2)


def moved_bins(rois: Tensor, offset: Tensor, gamma: float) -> Tensor:
    """Return the corners (n, 4, h, w) of the shifted bins, in pixels of the network input."""
    height, width = offset.shape[2:]
    size = (rois[:, 3:] - rois[:, 1:3])[:, :, None, None]                                # (n, 2, 1, 1)
    y, x = torch.meshgrid(torch.arange(height, device=rois.device), torch.arange(width, device=rois.device), indexing='ij')
    side = size / torch.tensor([[[width]], [[height]]], device=rois.device)
    start = rois[:, 1:3, None, None] + side * torch.stack([x, y]) + gamma * size * offset
    return torch.cat([start, start + side], 1)


def sampled_bins(feature: Tensor, image: Tensor, bins: Tensor, scale: float, sampling_ratio: int) -> Tensor:
    """Pool bins (n, 4, h, w) of the images ``image`` (n,), with a gradient for the bins' positions, which RoIAlign's kernel does not
    compute. Returns (n, C, h, w).

    RoIs of the same image with the same number of samples per bin are sampled together.
    """
    height, width = feature.shape[2:]
    start, side = bins[:, :2] * scale - 0.5, (bins[:, 2:, 0, 0] - bins[:, :2, 0, 0]).detach() * scale       # (n, 2, h, w), (n, 2)
    counts = torch.full_like(side, sampling_ratio).long() if sampling_ratio > 0 else side.ceil().long().clamp(min=1)
    kinds, which = torch.cat([image[:, None], counts], 1).unique(dim=0, return_inverse=True)
    # a part without RoIs, so that all processes build the same graph
    parts = [feature.new_zeros(0, feature.shape[1], *bins.shape[2:]) + 0 * (feature[..., 0, 0].sum() + bins[:, :2].sum())]
    order = [which[:0]]
    for k, (i, columns, rows) in enumerate(kinds.tolist()):
        mine = (which == k).nonzero().squeeze(1)
        x, y = (start[mine, axis, :, :, None, None] + side[mine, axis, None, None, None, None] * part
                for axis, part in ((0, middles(columns, bins.device)), (1, middles(rows, bins.device)[:, None])))
        x, y = torch.broadcast_tensors(x, y)                                                                 # (m, h, w, rows, columns)
        inside = ((x >= -1) & (x <= width) & (y >= -1) & (y <= height)).flatten(3).flatten(0, 2)
        grid = torch.stack([to_grid(x, width), to_grid(y, height)], -1).reshape(1, -1, rows * columns, 2)
        found = F.grid_sample(feature[i:i + 1], grid, padding_mode='border', align_corners=False)[0] * inside
        parts.append(found.mean(-1).reshape(len(found), *x.shape[:3]).transpose(0, 1))
        order.append(mine)
    return torch.cat(parts)[torch.cat(order).argsort()]


def middles(count: int, device: torch.device) -> Tensor:
    """Return the centres (count,) of ``count`` equal parts of [0, 1]."""
    return (torch.arange(count, device=device) + 0.5) / count
