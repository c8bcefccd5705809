"""SimOTA, the assigner of YOLOX (https://arxiv.org/abs/2107.08430, Sec. 2.1)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.ops.boxes import points_inside
from detkit.registry import TASK_UTILS
from detkit.tasks.matching import NEGATIVE, Candidates, Match, no_match

LEAST_IOU = 1e-7          # min IoU in -log IoU
NOT_CENTRAL = 100000.     # added to the cost of a prior outside an object or far from its centre


@TASK_UTILS.register_module()
class SimOTAAssigner:
    """Each object is matched to the k priors with the smallest cost; k is computed from the IoUs of the predictions.

    The cost of a pair is ``cls_weight`` times the binary cross entropy of the scores with the object's class, plus ``iou_weight`` times
    -log IoU (eq. 1). Candidates are priors inside any object or near any centre. For an object, the priors inside it and within
    ``center_radius`` strides of its centre are preferred to all other candidates. The quality of a match is the IoU of the prediction.
    """

    looks_at_predictions = True

    def __init__(self, center_radius: float = 2.5, candidate_topk: int = 10, iou_weight: float = 3., cls_weight: float = 1.,
                 iou_calculator: dict = dict(type='BboxOverlaps2D')) -> None:
        self.center_radius, self.candidate_topk = center_radius, candidate_topk
        self.iou_weight, self.cls_weight = iou_weight, cls_weight
        self.overlap = TASK_UTILS.build(iou_calculator)

    @torch.no_grad()
    def __call__(self, candidates: Candidates, gt: InstanceData, ignored: InstanceData | None = None) -> Match:
        """Return the match. Priors are points (x, y, stride_x, stride_y)."""
        result = no_match(len(candidates), candidates.priors.device, quality=True)
        if len(gt) == 0 or len(candidates) == 0:
            return result
        inside, near = points_inside(candidates.priors, gt.bboxes), self.near_center(candidates.priors, gt.bboxes)      # (A, G)
        valid = (inside | near).any(1).nonzero().squeeze(1)
        if len(valid) == 0:
            return result
        iou = self.overlap(candidates.boxes[valid], gt.bboxes)                                                          # (V, G)
        cost = classification_cost(candidates.logits[valid], gt.labels) * self.cls_weight \
            - (iou + LEAST_IOU).log() * self.iou_weight + ~(inside & near)[valid] * NOT_CENTRAL
        chosen = dynamic_k(cost, iou, self.candidate_topk)
        taken = chosen >= 0
        result.index[valid[taken]] = chosen[taken]
        result.quality[valid[taken]] = iou[taken, chosen[taken]]
        return result

    def near_center(self, priors: Tensor, boxes: Tensor) -> Tensor:
        """Return a mask (A, G) bool of priors (A, 4) near the centres of boxes (G, 4)."""
        x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).unbind(1)
        reach_x, reach_y = (priors[:, 2:] * self.center_radius).split(1, 1)
        px, py = priors[:, :1], priors[:, 1:2]
        return (px > x - reach_x) & (px < x + reach_x) & (py > y - reach_y) & (py < y + reach_y)


def classification_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the binary cross entropy (V, G) of each prediction with each object's class, summed over classes.

    ``logits`` (V, K), ``labels`` (G,). The loss of all other classes does not depend on the object, so their sum is computed once per prior
    and not per pair.
    """
    return F.softplus(logits).sum(1, keepdim=True) - logits[:, labels]


def dynamic_k(cost: Tensor, iou: Tensor, topk: int) -> Tensor:
    """Return the object (V,) matched to each prior, or NEGATIVE, from costs (V, G) and IoUs (V, G).

    The number of priors of an object is the sum of its ``topk`` largest IoUs, rounded down, at least one. A prior matched to several
    objects is assigned to the object with the smallest cost.
    """
    k = iou.topk(min(topk, len(iou)), 0).values.sum(0).int().clamp(min=1)                                # (G,)
    cheapest = cost.topk(min(int(k.max()), len(cost)), 0, largest=False).indices                         # (k, G)
    wanted = torch.arange(len(cheapest), device=k.device)[:, None] < k
    takes = torch.zeros_like(cost, dtype=torch.bool).scatter_(0, cheapest, wanted)
    best = cost.masked_fill(~takes & (takes.sum(1, keepdim=True) <= 1), torch.inf).argmin(1)
    return torch.where(takes.any(1), best, NEGATIVE)
