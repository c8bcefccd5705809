"""The overlap that an assigner's ``iou_calculator`` names."""
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
        dtype: 'fp16': compute in half precision, for less memory.
        scale: boxes are divided by it before, so that areas stay within half precision; needs ``dtype='fp16'``.
    """

    def __init__(self, scale: float = 1., dtype: str | None = None) -> None:
        if dtype not in (None, 'fp16'):
            raise ConfigError(f"BboxOverlaps2D dtype='{dtype}' is unknown. Known: fp16, None (that of the boxes).")
        if dtype is None and scale != 1 or scale <= 0:
            raise ConfigError(f"BboxOverlaps2D scale={scale} must be positive, and needs dtype='fp16': it has no effect on overlaps in "
                              f'full precision.')
        self.scale, self.dtype = scale, dtype

    def __call__(self, a: Tensor, b: Tensor, mode: str = 'iou', is_aligned: bool = False) -> Tensor:
        """Boxes xyxy, a fifth number (score) is ignored: (..., n, 4 or 5), (..., m, 4 or 5) -> (..., n, m) overlaps of all with all;
        ``is_aligned``: n equals m, (..., n) overlaps of each pair. ``mode``: 'iou', 'iof' (of the area of ``a``) or 'giou'.

        Raises:
            ValueError: another mode, ``is_aligned`` with different counts, or boxes of another shape.
        """
        if mode not in MODES:
            raise ValueError(f"BboxOverlaps2D mode='{mode}' is unknown. Known: {', '.join(MODES)}.")
        if is_aligned and a.shape[-2] != b.shape[-2]:
            raise ValueError(f'BboxOverlaps2D is_aligned=True needs as many boxes on both sides, given {a.shape[-2]} and {b.shape[-2]}.')
        a, b = self.corners(a), self.corners(b)
        overlap = (aligned_iou if is_aligned else pairwise_iou)(a, b, mode)
        return overlap.float() if self.dtype == 'fp16' and not overlap.is_cuda else overlap

    def corners(self, boxes: Tensor) -> Tensor:
        """(..., n, 4 or 5) -> (..., n, 4), scaled and in half precision if asked for."""
        if boxes.shape[-1] not in (4, 5):
            raise ValueError(f'BboxOverlaps2D expects boxes (n, 4), or (n, 5) with scores; given shape {tuple(boxes.shape)}.')
        boxes = boxes[..., :4]
        return (boxes / self.scale).to(torch.float16) if self.dtype == 'fp16' else boxes
