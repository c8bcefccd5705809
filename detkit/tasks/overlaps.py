"""The overlap that an assigner's ``iou_calculator`` names."""
from __future__ import annotations

from torch import Tensor

from detkit.ops.boxes import pairwise_iou
from detkit.registry import TASK_UTILS


@TASK_UTILS.register_module()
class BboxOverlaps2D:
    """IoU (or ``iof``) of every box with every other."""

    def __call__(self, a: Tensor, b: Tensor, mode: str = 'iou') -> Tensor:
        """(n, 4), (m, 4) -> (n, m)."""
        return pairwise_iou(a, b, mode)
