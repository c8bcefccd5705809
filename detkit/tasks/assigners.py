"""Assigners that use only the geometry of priors and boxes."""
from __future__ import annotations

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.registry import TASK_UTILS, ConfigError
from detkit.tasks.matching import IGNORED, NEGATIVE, Candidates, Match


@TASK_UTILS.register_module()
class MaxIoUAssigner:
    """Positive above ``pos_iou_thr``, negative below ``neg_iou_thr``, ignored in between (Faster R-CNN, Sec. 3.1.2).

    Args:
        neg_iou_thr: a number, or (low, high): priors are negative only in this range.
        match_low_quality: also match every ground-truth box to the prior with the largest IoU, if that IoU is at least ``min_pos_iou``; if
            several boxes match one prior, the last box is used.
        gt_max_assign_all: match all priors that tie for the largest IoU; False: one of them.
        ignore_iof_thr: ignore priors whose overlap with an ignored region, relative to the region's area (``ignore_wrt_candidates``: to the
            prior's area), exceeds this.
        gpu_assign_thr: compute overlaps on the CPU if there are more ground-truth boxes than this; -1: never.
    """

    looks_at_predictions = False

    def __init__(self, pos_iou_thr: float, neg_iou_thr: float | tuple[float, float], min_pos_iou: float = 0.,
                 gt_max_assign_all: bool = True, ignore_iof_thr: float = -1, ignore_wrt_candidates: bool = True,
                 match_low_quality: bool = True, gpu_assign_thr: int = -1,
                 iou_calculator: dict = dict(type='BboxOverlaps2D')) -> None:
        self.pos_iou_thr, self.min_pos_iou = pos_iou_thr, min_pos_iou
        self.neg_low, self.neg_high = (0., neg_iou_thr) if isinstance(neg_iou_thr, (int, float)) else neg_iou_thr
        self.gt_max_assign_all, self.match_low_quality = gt_max_assign_all, match_low_quality
        self.ignore_iof_thr, self.ignore_wrt_candidates = ignore_iof_thr, ignore_wrt_candidates
        self.gpu_assign_thr, self.overlap = gpu_assign_thr, TASK_UTILS.build(iou_calculator)

    def __call__(self, candidates: Candidates, gt: InstanceData, ignored: InstanceData | None = None) -> Match:
        """Return the match. ``gt.bboxes`` (G, 4) and ``ignored.bboxes`` (I, 4) may be empty."""
        priors, device = candidates.priors, candidates.priors.device
        if len(gt) == 0 or len(priors) == 0:
            index = torch.full((len(priors),), NEGATIVE, device=device)
            if len(priors) and self.ignores(ignored):
                index = index.masked_fill(self.in_ignored(priors, ignored.bboxes), IGNORED)
            return Match(index, overlap=torch.zeros(len(priors), device=device))
        where = torch.device('cpu') if 0 <= self.gpu_assign_thr < len(gt) else device
        iou = self.overlaps(candidates, gt.bboxes, where)
        if self.ignores(ignored):
            iou[:, self.in_ignored(priors.to(where), ignored.bboxes.to(where))] = -1
        return Match(self.by_overlap(iou).to(device), overlap=iou.amax(0).to(device))

    def overlaps(self, candidates: Candidates, gt_bboxes: Tensor, where: torch.device) -> Tensor:
        """Return the IoU (G, A) of every ground-truth box with every prior, computed on the device ``where``."""
        return self.overlap(gt_bboxes.to(where), candidates.priors.to(where))

    def by_overlap(self, iou: Tensor) -> Tensor:
        """Return the match index (A,) from overlaps (G, A)."""
        best_iou, best_gt = iou.max(0)
        match = torch.full_like(best_gt, IGNORED)
        match[(best_iou >= self.neg_low) & (best_iou < self.neg_high)] = NEGATIVE
        match = torch.where(best_iou >= self.pos_iou_thr, best_gt, match)
        if self.match_low_quality:
            top = iou.amax(1)
            for g in (top >= self.min_pos_iou).nonzero().squeeze(1).tolist():
                match[iou[g] == top[g] if self.gt_max_assign_all else iou[g].argmax()] = g
        return match

    def ignores(self, ignored: InstanceData | None) -> bool:
        return self.ignore_iof_thr > 0 and ignored is not None and len(ignored) > 0

    def in_ignored(self, priors: Tensor, regions: Tensor) -> Tensor:
        """Return a mask (A,) bool of the priors (A, 4) that lie in ignored regions (I, 4)."""
        if self.ignore_wrt_candidates:
            return self.overlap(priors, regions, 'iof').amax(1) > self.ignore_iof_thr
        return self.overlap(regions, priors, 'iof').amax(0) > self.ignore_iof_thr


@TASK_UTILS.register_module()
class ApproxMaxIoUAssigner(MaxIoUAssigner):
    """The overlap of a prior is the largest overlap of its approximation anchors (SABL, https://arxiv.org/abs/1912.04260, Sec. 4.1)."""

    def overlaps(self, candidates: Candidates, gt_bboxes: Tensor, where: torch.device) -> Tensor:
        """Return the overlaps (G, A).

        Raises:
            ConfigError: the head provides no approximation anchors.
        """
        if candidates.approximations is None:
            raise ConfigError('ApproxMaxIoUAssigner needs a head with an approx_anchor_generator; MaxIoUAssigner is for the others.')
        anchors = candidates.approximations.to(where)                                             # (A, m, 4)
        return self.overlap(gt_bboxes.to(where), anchors.flatten(0, 1)).unflatten(1, anchors.shape[:2]).amax(2)
