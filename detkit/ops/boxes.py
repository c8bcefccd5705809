"""Functions on boxes: float tensors (..., 4) as corners (x1, y1, x2, y2) in pixels."""
from __future__ import annotations

import math

import torch
from torch import Tensor


def areas(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersections(a: Tensor, b: Tensor) -> Tensor:
    """Areas shared by boxes that broadcast against each other: (..., 4), (..., 4) -> (...)."""
    size = (torch.min(a[..., 2:], b[..., 2:]) - torch.max(a[..., :2], b[..., :2])).clamp(min=0)
    return size[..., 0] * size[..., 1]


def pairwise_iou(a: Tensor, b: Tensor, mode: str = 'iou', eps: float = 1e-6) -> Tensor:
    """(n, 4), (m, 4) -> (n, m). ``iof`` divides by the area of ``a`` in place of the union."""
    shared = intersections(a[:, None], b[None])
    area_a = areas(a)[:, None]
    whole = area_a if mode == 'iof' else area_a + areas(b)[None] - shared
    return shared / whole.clamp(min=eps)


def aligned_iou(a: Tensor, b: Tensor, mode: str = 'iou', eps: float = 1e-6) -> Tensor:
    """Overlap of each pair of boxes, (n, 4), (n, 4) -> (n,).

    ``iou`` in [0, 1]; ``giou`` in [-1, 1] (https://arxiv.org/abs/1902.09630, alg. 1); ``diou`` and ``ciou``
    (https://arxiv.org/abs/1911.08287, eq. 7 and 10) subtract the distance of the centres, and the difference of the shapes.
    """
    shared = intersections(a, b)
    union = (areas(a) + areas(b) - shared).clamp(min=eps)
    iou = shared / union
    if mode == 'iou':
        return iou
    hull = (torch.max(a[..., 2:], b[..., 2:]) - torch.min(a[..., :2], b[..., :2])).clamp(min=0)
    if mode == 'giou':
        hull_area = (hull[..., 0] * hull[..., 1]).clamp(min=eps)
        return iou - (hull_area - union) / hull_area
    centre_distance = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:])**2).sum(-1) / 4
    diou = iou - centre_distance / ((hull**2).sum(-1) + eps)
    if mode == 'diou':
        return diou
    w_a, h_a = (a[..., 2:] - a[..., :2]).unbind(-1)
    w_b, h_b = (b[..., 2:] - b[..., :2]).unbind(-1)
    shape = 4 / math.pi**2 * (torch.atan(w_b / (h_b + eps)) - torch.atan(w_a / (h_a + eps)))**2
    with torch.no_grad():
        trade_off = (iou > 0.5).to(iou) * shape / (1 - iou + shape).clamp(min=eps)
    return diou - trade_off * shape


def to_corners(boxes_cxcywh: Tensor) -> Tensor:
    """(..., 4) cxcywh -> xyxy."""
    center, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([center - half, center + half], -1)


def to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy -> cxcywh."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Move corners that lie outside an image of ``size`` (height, width) to its border."""
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def scale_boxes(boxes: Tensor, factor: tuple[float, float]) -> Tensor:
    """Multiply x by ``factor[0]`` and y by ``factor[1]``."""
    return boxes * boxes.new_tensor([*factor, *factor])


def larger_than(boxes: Tensor, size: float) -> Tensor:
    """(..., 4) -> (...): True where both sides exceed ``size`` pixels."""
    return (boxes[..., 2] - boxes[..., 0] > size) & (boxes[..., 3] - boxes[..., 1] > size)


def points_inside(points: Tensor, boxes: Tensor) -> Tensor:
    """(n, 2+) x, y first, and (m, 4) -> (n, m) bool: strictly inside."""
    x, y = points[:, :1], points[:, 1:2]
    return (x > boxes[:, 0]) & (x < boxes[:, 2]) & (y > boxes[:, 1]) & (y < boxes[:, 3])
