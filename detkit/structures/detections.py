"""What a detector found in a batch, in tensors of one shape: the form in which it is exported."""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Detections(NamedTuple):
    """Per image M rows, best first. A row that holds nothing has score 0, label -1 and a box of zeros."""

    boxes: Tensor                # (N, M, 4) xyxy pixels of the network input
    scores: Tensor               # (N, M)
    labels: Tensor               # (N, M) int64
    masks: Tensor | None = None  # (N, M, h, w) scores in [0, 1], or logits, in the frame that the detector says
