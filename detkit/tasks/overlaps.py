"""Overlap functions for an assigner's ``iou_calculator``."""
from __future__ import annotations

import torch
from torch import Tensor

from detkit.ops.boxes import aligned_iou, pairwise_iou
from detkit.registry import TASK_UTILS, ConfigError

MODES = ('iou', 'iof', 'giou')


@TASK_UTILS.register_module()
class BboxOverlaps2D:
    """Overlap of boxes.

    Args:
        dtype: 'fp16': compute in half precision, which needs less memory.
        scale: divide boxes by this first, so that areas do not overflow in half precision; needs ``dtype='fp16'``.
    """

    def __init__(self, scale: float = 1., dtype: str | None = None) -> None:
        if dtype not in (None, 'fp16'):
            raise ConfigError(f"BboxOverlaps2D dtype='{dtype}' is unknown. Known: fp16, None (that of the boxes).")
        if dtype is None and scale != 1 or scale <= 0:
            raise ConfigError(f"BboxOverlaps2D scale={scale} must be positive, and needs dtype='fp16': it has no effect on overlaps in "
                              f'full precision.')
        self.scale, self.dtype = scale, dtype

    def __call__(self, a: Tensor, b: Tensor, mode: str = 'iou', is_aligned: bool = False) -> Tensor:
        """Return the overlaps (..., n, m) of all pairs of boxes (..., n, 4 or 5) and (..., m, 4 or 5) xyxy; a fifth number (score) is
        ignored.

        ``is_aligned``: return (..., n), the overlap of each box of ``a`` with the box of ``b`` in the same row. ``mode``: 'iou', 'iof'
        (relative to the area of ``a``) or 'giou'.

        Raises:
            ValueError: another mode, ``is_aligned`` with different numbers of boxes, or boxes of another shape.
        """
        if mode not in MODES:
            raise ValueError(f"BboxOverlaps2D mode='{mode}' is unknown. Known: {', '.join(MODES)}.")
        if is_aligned and a.shape[-2] != b.shape[-2]:
            raise ValueError(f'BboxOverlaps2D is_aligned=True needs as many boxes on both sides, given {a.shape[-2]} and {b.shape[-2]}.')
        a, b = self.corners(a), self.corners(b)
        overlap = (aligned_iou if is_aligned else pairwise_iou)(a, b, mode)
        return overlap.float() if self.dtype == 'fp16' and not overlap.is_cuda else overlap

    def corners(self, boxes: Tensor) -> Tensor:
        """Return the corners (..., n, 4) of boxes (..., n, 4 or 5), scaled and in half precision if configured."""
        if boxes.shape[-1] not in (4, 5):
            raise ValueError(f'BboxOverlaps2D expects boxes (n, 4), or (n, 5) with scores; given shape {tuple(boxes.shape)}.')
        boxes = boxes[..., :4]
        return (boxes / self.scale).to(torch.float16) if self.dtype == 'fp16' else boxes
