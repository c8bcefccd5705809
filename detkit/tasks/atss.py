"""The assigner of ATSS (https://arxiv.org/abs/1912.02424, algorithm 1)."""
from __future__ import annotations

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.registry import TASK_UTILS, ConfigError
from detkit.tasks.matching import IGNORED, NEGATIVE, Candidates, Match, no_match

INSIDE = 0.01     # min distance in pixels from a centre to the sides of a box


@TASK_UTILS.register_module()
class ATSSAssigner:
    """On each level, the ``topk`` anchors nearest to an object's centre are candidates. A candidate is positive if its IoU is at least the
    mean plus the standard deviation of the candidates' IoUs, and if its centre is inside the object. An anchor that is positive for
    several objects is matched to the one with the largest IoU.

    ``ignore_iof_thr``: anchors that overlap an ignored region by more than this are ignored; they are candidates only on a level that has
    fewer than ``topk`` other anchors. -1: no anchor is ignored.
    """

    looks_at_predictions = False

    def __init__(self, topk: int, iou_calculator: dict = dict(type='BboxOverlaps2D'), ignore_iof_thr: float = -1) -> None:
        self.topk, self.ignore_iof_thr = topk, ignore_iof_thr
        self.overlap = TASK_UTILS.build(iou_calculator)

    def __call__(self, candidates: Candidates, gt: InstanceData, ignored: InstanceData | None = None) -> Match:
        """Return the match. Raises ConfigError for a head that does not provide the number of anchors per level."""
        priors = candidates.priors
        if candidates.levels is None:
            raise ConfigError('ATSSAssigner needs a head that says how many anchors lie on each level.')
        if len(gt) == 0 or len(priors) == 0:
            return no_match(len(priors), priors.device)
        iou = self.overlap(priors, gt.bboxes)                                                            # (A, G)
        centers, gt_centers = middle(priors), middle(gt.bboxes)
        distance = (centers[:, None] - gt_centers).pow(2).sum(-1).sqrt()
        unmatched = torch.full_like(priors[:, 0], NEGATIVE, dtype=torch.long)
        if self.ignore_iof_thr > 0 and ignored is not None and len(ignored):
            in_ignored = self.overlap(priors, ignored.bboxes, 'iof').amax(1) > self.ignore_iof_thr
            distance[in_ignored], unmatched[in_ignored] = torch.inf, IGNORED
        near = self.nearest(distance, candidates.levels)                                                 # (C, G)
        their = iou.gather(0, near)
        points = centers[near]                                                                           # (C, G, 2)
        inside = torch.cat([points - gt.bboxes[:, :2], gt.bboxes[:, 2:] - points], -1).amin(-1) > INSIDE
        positive = (their >= their.mean(0) + their.std(0)) & inside
        taken = torch.full_like(iou, -torch.inf).scatter_(0, near, torch.where(positive, their, -torch.inf))
        best, which = taken.max(1)
        return Match(torch.where(best > -torch.inf, which, unmatched), overlap=iou.amax(1))

    def nearest(self, distance: Tensor, levels: list[int]) -> Tensor:
        """Return the indices (C, G) of the candidate anchors of each object, from distances (A, G)."""
        found, start = [], 0
        for count in levels:
            found.append(distance[start:start + count].topk(min(self.topk, count), 0, largest=False).indices + start)
            start += count
        return torch.cat(found)


def middle(boxes: Tensor) -> Tensor:
    """Return the centres (n, 2) of boxes (n, 4) xyxy."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2
