"""The assigner of TOOD (https://arxiv.org/abs/2108.07755, Sec. 3.2)."""
from __future__ import annotations

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.registry import TASK_UTILS, ConfigError
from detkit.tasks.atss import INSIDE, middle
from detkit.tasks.matching import NEGATIVE, Candidates, Match, no_match

EPS = 1e-7


@TASK_UTILS.register_module()
class TaskAlignedAssigner:
    """Of the ``topk`` anchors with the largest alignment with an object, those whose centre is inside the object are matched to it.

    The alignment is the score of the object's class to the power ``alpha``, times the IoU to the power ``beta`` (eq. 7). An anchor matched
    to several objects keeps the object with the largest IoU. The quality of a match is its alignment, scaled so that the maximum for an
    object is the object's largest IoU (Sec. 3.2.2).
    """

    looks_at_predictions = True

    def __init__(self, topk: int, alpha: float = 1., beta: float = 6., iou_calculator: dict = dict(type='BboxOverlaps2D')) -> None:
        if topk < 1:
            raise ConfigError(f'TaskAlignedAssigner topk={topk} must be at least 1.')
        self.topk, self.alpha, self.beta = topk, alpha, beta
        self.overlap = TASK_UTILS.build(iou_calculator)

    @torch.no_grad()
    def __call__(self, candidates: Candidates, gt: InstanceData, ignored: InstanceData | None = None) -> Match:
        """Return the match. Priors are anchors."""
        count = len(candidates)
        if len(gt) == 0 or count == 0:
            return no_match(count, candidates.priors.device, quality=True)
        iou = self.overlap(candidates.boxes, gt.bboxes)                                                  # (A, G)
        alignment = candidates.logits[:, gt.labels].sigmoid()**self.alpha * iou**self.beta
        best, index = alignment.topk(min(self.topk, count), 0)                                           # (T, G)
        points = middle(candidates.priors)[index]
        inside = torch.cat([points - gt.bboxes[:, :2], gt.bboxes[:, 2:] - points], -1).amin(-1) > INSIDE
        their = iou.gather(0, index).where((best > 0) & inside, -torch.inf)
        overlap, which = torch.full_like(iou, -torch.inf).scatter_(0, index, their).max(1)
        positive = overlap > -torch.inf
        quality = torch.zeros_like(overlap)
        quality[positive] = scaled(alignment[positive, which[positive]], overlap[positive], which[positive], len(gt))
        return Match(torch.where(positive, which, NEGATIVE), quality)


def scaled(alignment: Tensor, overlap: Tensor, which: Tensor, num_objects: int) -> Tensor:
    """Scale the alignments (P,) of positives matched to the objects ``which`` (P,): the maximum per object becomes its largest ``overlap``
    (P,)."""
    def largest(values: Tensor) -> Tensor:
        return values.new_zeros(num_objects).scatter_reduce(0, which, values, 'amax')[which]
    return alignment / (largest(alignment) + EPS) * largest(overlap)
