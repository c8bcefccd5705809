"""The assigner of RTMDet (https://arxiv.org/abs/2212.07784, Sec. 3.3)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.ops.boxes import points_inside
from detkit.registry import TASK_UTILS
from detkit.tasks.matching import Candidates, Match, no_match
from detkit.tasks.sim_ota import LEAST_IOU, dynamic_k


@TASK_UTILS.register_module()
class DynamicSoftLabelAssigner:
    """Each object is matched to the k priors with the smallest cost; k is computed from the IoUs of the predictions (as in SimOTA).

    The cost of a pair (eq. 1) is a soft classification cost with the IoU of the prediction as target (eq. 2), plus ``iou_weight`` times
    -log IoU (eq. 3), plus a centre cost that grows tenfold with each stride beyond ``soft_center_radius`` (eq. 4). The quality of a match
    is the IoU of the prediction.
    """

    looks_at_predictions = True

    def __init__(self, soft_center_radius: float = 3., topk: int = 13, iou_weight: float = 3.,
                 iou_calculator: dict = dict(type='BboxOverlaps2D')) -> None:
        self.soft_center_radius, self.topk, self.iou_weight = soft_center_radius, topk, iou_weight
        self.overlap = TASK_UTILS.build(iou_calculator)

    @torch.no_grad()
    def __call__(self, candidates: Candidates, gt: InstanceData, ignored: InstanceData | None = None) -> Match:
        """Return the match. Priors are points (x, y, stride_x, stride_y); only priors inside at least one object are candidates."""
        result = no_match(len(candidates), candidates.priors.device, quality=True)
        if len(gt) == 0 or len(candidates) == 0:
            return result
        valid = points_inside(candidates.priors, gt.bboxes).any(1).nonzero().squeeze(1)
        if len(valid) == 0:
            return result
        iou = self.overlap(candidates.boxes[valid], gt.bboxes)                                           # (V, G)
        cost = soft_classification_cost(candidates.logits[valid], gt.labels, iou) \
            - (iou + LEAST_IOU).log() * self.iou_weight + self.center_cost(candidates.priors[valid], centers(gt))
        chosen = dynamic_k(cost, iou, self.topk)
        taken = chosen >= 0
        result.index[valid[taken]] = chosen[taken]
        result.quality[valid[taken]] = iou[taken, chosen[taken]]
        return result

    def center_cost(self, priors: Tensor, gt_centers: Tensor) -> Tensor:
        """Return the centre cost (V, G) of priors (V, 4) and object centres (G, 2)."""
        distance = (priors[:, None, :2] - gt_centers[None]).pow(2).sum(-1).sqrt() / priors[:, 2, None]
        return torch.pow(10, distance - self.soft_center_radius)


def centers(gt: InstanceData) -> Tensor:
    """Return the objects' centres (G, 2) x, y: the centre of mass of the masks if there are masks, else the centre of the boxes."""
    if 'masks' not in gt:
        return (gt.bboxes[:, :2] + gt.bboxes[:, 2:]) / 2
    masks = gt.masks.to_tensor(torch.bool, gt.bboxes.device) if hasattr(gt.masks, 'to_tensor') else gt.masks.bool()
    columns, rows = masks.sum(1).float(), masks.sum(2).float()                                           # (G, W), (G, H)
    total = rows.sum(1).clamp(min=1e-7)
    x = (columns * torch.arange(columns.shape[1], device=masks.device)).sum(1) / total
    y = (rows * torch.arange(rows.shape[1], device=masks.device)).sum(1) / total
    return torch.stack([x, y], -1)


def soft_classification_cost(logits: Tensor, labels: Tensor, iou: Tensor) -> Tensor:
    """Return the quality focal loss (V, G) of each prediction with each object as target, summed over classes.

    ``logits`` (V, K), ``labels`` (G,), ``iou`` (V, G). The loss of all other classes does not depend on the object, so their sum is
    computed once per prior and not per pair.
    """
    background = F.softplus(logits) * logits.sigmoid()**2                                                # (V, K)
    chosen = logits[:, labels]                                                                           # (V, G)
    own = F.binary_cross_entropy_with_logits(chosen, iou, reduction='none') * (iou - chosen.sigmoid()).abs()**2
    return background.sum(1, keepdim=True) - background[:, labels] + own
