"""The detections of a batch in tensors of fixed shape, for export."""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Detections(NamedTuple):
    """For each image M rows, best first. Empty rows have score 0, label -1 and a box of zeros."""

    boxes: Tensor                # (N, M, 4) xyxy pixels of the network input
    scores: Tensor               # (N, M)
    labels: Tensor               # (N, M) int64
    masks: Tensor | None = None  # (N, M, h, w) scores in [0, 1], or logits; the frame depends on the detector
