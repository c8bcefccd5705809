"""Functions on boxes: float tensors (..., 4) as corners (x1, y1, x2, y2) in pixels."""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

OVERLAPS = ('iou', 'iof', 'giou', 'diou', 'ciou')
ImageSize = Tensor | Sequence[int] | Sequence[Sequence[int]]


def areas(boxes: Tensor) -> Tensor:
    """Return the areas (...) of boxes (..., 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersections(a: Tensor, b: Tensor) -> Tensor:
    """Return the areas (...) of the intersections of boxes (..., 4) and (..., 4), which broadcast."""
    size = (torch.min(a[..., 2:], b[..., 2:]) - torch.max(a[..., :2], b[..., :2])).clamp(min=0)
    return size[..., 0] * size[..., 1]


def pairwise_iou(a: Tensor, b: Tensor, mode: str = 'iou', eps: float = 1e-6) -> Tensor:
    """Return the overlap (..., n, m) of every box of ``a`` (..., n, 4) with every box of ``b`` (..., m, 4); modes as in ``aligned_iou``."""
    return aligned_iou(a[..., :, None, :], b[..., None, :, :], mode, eps)


def aligned_iou(a: Tensor, b: Tensor, mode: str = 'iou', eps: float = 1e-6) -> Tensor:
    """Return the overlap (...) of each pair of boxes (..., 4) and (..., 4), which broadcast.

    ``iou`` is in [0, 1]; ``iof`` divides by the area of ``a`` instead of the union; ``giou`` is in [-1, 1]
    (https://arxiv.org/abs/1902.09630, alg. 1); ``diou`` and ``ciou`` (https://arxiv.org/abs/1911.08287, eq. 7 and 10) subtract the distance
    of the centres, and ``ciou`` also the difference of the aspect ratios.

    Raises:
        ValueError: another mode.
    """
    if mode not in OVERLAPS:
        raise ValueError(f"overlap mode '{mode}' is unknown. Known: {', '.join(OVERLAPS)}.")
    shared = intersections(a, b)
    if mode == 'iof':
        return shared / areas(a).clamp(min=eps)
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
    """Convert boxes (..., 4) from cxcywh to xyxy."""
    center, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([center - half, center + half], -1)


def to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert boxes (..., 4) from xyxy to cxcywh."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def clip_boxes(boxes: Tensor, size: ImageSize, inset: int = 0) -> Tensor:
    """Clip boxes to an image of ``size`` (height, width), at the right and bottom to ``inset`` pixels before the border.

    ``size`` may have a third number (channels), which is ignored. For boxes (B, n, 4) of B images there can be one size per image: (B, 2 or
    3), a tensor or a sequence.

    Raises:
        ValueError: ``size`` has another shape.
    """
    height, width = heights_and_widths(boxes, size)
    if isinstance(height, Tensor):
        zero = boxes.new_zeros(())
        x, y = boxes[..., 0::2].clamp(zero, width - inset), boxes[..., 1::2].clamp(zero, height - inset)
    else:
        x, y = boxes[..., 0::2].clamp(0, width - inset), boxes[..., 1::2].clamp(0, height - inset)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def heights_and_widths(boxes: Tensor, size: ImageSize) -> tuple[int, int] | tuple[Tensor, Tensor]:
    """Return height and width: numbers for one image, or tensors that broadcast with (..., n, 2)."""
    if not isinstance(size, Tensor) and len(size) in (2, 3) and not hasattr(size[0], '__len__'):
        return size[0], size[1]
    try:
        sizes = torch.as_tensor(size, dtype=boxes.dtype, device=boxes.device) if isinstance(size, Tensor) else \
            torch.stack([torch.as_tensor(row, dtype=boxes.dtype, device=boxes.device) for row in size])
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'image size {size} is neither (height, width) nor one such pair per image: {error}') from None
    per_image = sizes.ndim == 2
    if sizes.ndim not in (1, 2) or sizes.shape[-1] not in (2, 3) or per_image and (boxes.ndim != 3 or boxes.shape[0] != sizes.shape[0]):
        raise ValueError(f'image sizes of shape {tuple(sizes.shape)} do not fit boxes of shape {tuple(boxes.shape)}: expected (height, '
                         f'width), or one such pair for each image of boxes (images, boxes, 4).')
    return (sizes[:, None, None, 0], sizes[:, None, None, 1]) if per_image else (sizes[0], sizes[1])


def scale_boxes(boxes: Tensor, factor: tuple[float, float]) -> Tensor:
    """Multiply x by ``factor[0]`` and y by ``factor[1]``."""
    return boxes * boxes.new_tensor([*factor, *factor])


def larger_than(boxes: Tensor, size: float) -> Tensor:
    """Return a mask (...) of boxes (..., 4) whose width and height both exceed ``size`` pixels."""
    return (boxes[..., 2] - boxes[..., 0] > size) & (boxes[..., 3] - boxes[..., 1] > size)


def points_inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Return a mask (n, m) bool of points (n, 2+), x and y first, strictly inside boxes (m, 4)."""
    x, y = points[:, :1], points[:, 1:2]
    return (x > boxes[:, 0]) & (x < boxes[:, 2]) & (y > boxes[:, 1]) & (y < boxes[:, 3])
