"""The outputs and training targets of query detectors.

Shapes: D decoder layers, N images, Q queries, K classes (with a softmax, one more column: no object). Boxes are cxcywh, normalised by the
image size.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detkit.models.targets import AssignedBy


@dataclass(frozen=True)
class QueryOutputs:
    """Raw predictions of all decoder layers, and of the encoder if queries are its proposals."""

    logits: Tensor                 # (D, N, T + Q, K)
    boxes: Tensor                  # (D, N, T + Q, 4) float32
    proposal_logits: Tensor | None = None   # (N, S, K)
    proposal_boxes: Tensor | None = None    # (N, S, 4)
    denoised: Tensor | None = None  # (N, T) index of the object that each denoising query copies, or NEGATIVE; None: T is 0

    def float(self) -> 'QueryOutputs':
        """Convert to float32: losses and boxes are computed in float32 also when the network runs in lower precision."""
        proposals = None if self.proposal_logits is None else self.proposal_logits.float()
        return replace(self, logits=self.logits.float(), proposal_logits=proposals)


@dataclass(frozen=True)
class QueryTargets:
    """The object matched to each query."""

    index: Tensor    # (D, N, Q) int64: index of the object in its image; negative: none
    assigned_by: AssignedBy = 'queries'

    @property
    def matched_objects(self) -> list[Tensor]:
        """Return the matched objects of the last layer, ascending."""
        return [index[index >= 0].unique() for index in self.index[-1]]


def stacked(predictions: list[tuple[Tensor, Tensor]], all_layers: bool, **more: Tensor | None) -> QueryOutputs:
    """Stack the logits and boxes of all layers; only of the last layer unless ``all_layers``."""
    logits, boxes = zip(*(predictions if all_layers else predictions[-1:]))
    return QueryOutputs(torch.stack(logits), torch.stack(boxes), **more)
