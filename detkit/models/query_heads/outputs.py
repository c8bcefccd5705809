"""Between a query detector's network and its loss or its boxes.

Shapes: D decoder layers, N images, Q queries, K classes (one more column with a softmax: no object). Boxes are cxcywh, shares of the image.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detkit.models.targets import AssignedBy


@dataclass(frozen=True)
class QueryOutputs:
    """Raw predictions of all decoder layers, and of the encoder where queries start as its proposals."""

    logits: Tensor                 # (D, N, T + Q, K)
    boxes: Tensor                  # (D, N, T + Q, 4) float32
    proposal_logits: Tensor | None = None   # (N, S, K)
    proposal_boxes: Tensor | None = None    # (N, S, 4)
    denoised: Tensor | None = None  # (N, T) which object each of the first T queries is a noisy copy of, or NEGATIVE; None: T is 0

    def float(self) -> 'QueryOutputs':
        """In float32, in which losses and boxes are computed whatever the network ran in."""
        proposals = None if self.proposal_logits is None else self.proposal_logits.float()
        return replace(self, logits=self.logits.float(), proposal_logits=proposals)


@dataclass(frozen=True)
class QueryTargets:
    """Which object each query should predict."""

    index: Tensor    # (D, N, Q) int64: the object within its image; negative: none
    assigned_by: AssignedBy = 'queries'

    @property
    def matched_objects(self) -> list[Tensor]:
        """Of the last layer."""
        return [index[index >= 0].unique() for index in self.index[-1]]


def stacked(predictions: list[tuple[Tensor, Tensor]], all_layers: bool, **more: Tensor | None) -> QueryOutputs:
    """Each layer's logits and boxes as one; of the last layer alone unless ``all_layers``."""
    logits, boxes = zip(*(predictions if all_layers else predictions[-1:]))
    return QueryOutputs(torch.stack(logits), torch.stack(boxes), **more)
