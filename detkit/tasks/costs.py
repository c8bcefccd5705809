"""Matching costs between queries (or priors) and objects. A matcher sums several of them.

Each cost is called as ``(candidates, gt) -> (..., A, G)`` for A candidates and G objects; the leading dimensions are those of the
candidates' predictions. All costs are computed in float32 and multiplied by ``weight``.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.ops.boxes import aligned_iou, to_cxcywh
from detkit.registry import TASK_UTILS, ConfigError
from detkit.tasks.matching import Candidates


@TASK_UTILS.register_module()
class ClassificationCost:
    """Negative softmax score of the object's class (DETR, https://arxiv.org/abs/2005.12872, Sec. 3.1)."""

    def __init__(self, weight: float = 1.) -> None:
        self.weight = weight

    def __call__(self, candidates: Candidates, gt: InstanceData) -> Tensor:
        return -candidates.logits.softmax(-1)[..., gt.labels] * self.weight


@TASK_UTILS.register_module()
class FocalLossCost:
    """Focal loss of the object's class as a positive, minus its focal loss as a negative (Deformable DETR, instead of DETR's score).

    ``binary_input``: compute the cost of masks, averaged over their points, instead of the cost of a class.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2, eps: float = 1e-12, binary_input: bool = False, weight: float = 1.) -> None:
        self.alpha, self.gamma, self.eps, self.binary_input, self.weight = alpha, gamma, eps, binary_input, weight

    def __call__(self, candidates: Candidates, gt: InstanceData) -> Tensor:
        if self.binary_input:
            positive, negative = self.terms(candidates.masks)
            return between_points(positive, negative, gt.masks) / positive.shape[-1] * self.weight
        positive, negative = self.terms(candidates.logits[..., gt.labels])
        return (positive - negative) * self.weight

    def terms(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the elementwise focal loss for target 1 and for target 0."""
        p = logits.sigmoid()
        return (-(p + self.eps).log() * self.alpha * (1 - p)**self.gamma,
                -(1 - p + self.eps).log() * (1 - self.alpha) * p**self.gamma)


@TASK_UTILS.register_module()
class BinaryFocalLossCost(FocalLossCost):
    """Focal loss, summed over text tokens, between token logits and an object's ``positive_maps`` (G, T); tokens outside
    ``text_token_mask`` are left out (Grounding DINO, https://arxiv.org/abs/2303.05499)."""

    def __call__(self, candidates: Candidates, gt: InstanceData) -> Tensor:
        tokens = gt.text_token_mask[0].nonzero().squeeze(1)
        return between_points(*self.terms(candidates.logits[..., tokens]), gt.positive_maps[:, tokens]) * self.weight


@TASK_UTILS.register_module()
class BBoxL1Cost:
    """L1 distance of boxes, normalised by the image size; ``box_format``: 'xyxy' corners or 'xywh' centre and size."""

    def __init__(self, box_format: str = 'xyxy', weight: float = 1.) -> None:
        if box_format not in ('xyxy', 'xywh'):
            raise ConfigError(f"BBoxL1Cost box_format='{box_format}' is unknown. Known: xyxy, xywh.")
        self.box_format, self.weight = box_format, weight

    def __call__(self, candidates: Candidates, gt: InstanceData) -> Tensor:
        boxes, gt_boxes = candidates.boxes, gt.bboxes
        height, width = candidates.size
        if self.box_format == 'xywh':
            boxes, gt_boxes = to_cxcywh(boxes), to_cxcywh(gt_boxes)
        share = boxes.new_tensor([width, height, width, height])
        return torch.cdist(boxes / share, (gt_boxes / share).expand(*boxes.shape[:-2], -1, -1), p=1) * self.weight


@TASK_UTILS.register_module()
class IoUCost:
    """Negative overlap; ``iou_mode``: 'iou' or 'giou'."""

    def __init__(self, iou_mode: str = 'giou', weight: float = 1.) -> None:
        if iou_mode not in ('iou', 'giou'):
            raise ConfigError(f"IoUCost iou_mode='{iou_mode}' is unknown. Known: iou, giou.")
        self.iou_mode, self.weight = iou_mode, weight

    def __call__(self, candidates: Candidates, gt: InstanceData) -> Tensor:
        return -aligned_iou(candidates.boxes[..., :, None, :], gt.bboxes, self.iou_mode) * self.weight


@TASK_UTILS.register_module()
class DiceCost:
    """Dice loss of masks at sampled points (MaskFormer, https://arxiv.org/abs/2107.06278, Sec. 3.2).

    ``pred_act``: predictions are logits; apply a sigmoid. ``naive_dice``: sums in the denominator instead of sums of squares.
    """

    def __init__(self, pred_act: bool = False, eps: float = 1e-3, naive_dice: bool = True, weight: float = 1.) -> None:
        self.pred_act, self.eps, self.naive_dice, self.weight = pred_act, eps, naive_dice, weight

    def __call__(self, candidates: Candidates, gt: InstanceData) -> Tensor:
        masks, gt_masks = candidates.masks, gt.masks.to(candidates.masks)
        masks = masks.sigmoid() if self.pred_act else masks
        shared = 2 * masks @ gt_masks.mT
        power = 1 if self.naive_dice else 2
        total = (masks**power).sum(-1)[..., None] + (gt_masks**power).sum(-1)
        return (1 - (shared + self.eps) / (total + self.eps)) * self.weight


@TASK_UTILS.register_module()
class CrossEntropyLossCost:
    """Binary cross entropy of masks at sampled points, averaged over the points."""

    def __init__(self, use_sigmoid: bool = True, weight: float = 1.) -> None:
        if not use_sigmoid:
            raise ConfigError('CrossEntropyLossCost(use_sigmoid=False) is not defined: a mask has one logit a point.')
        self.weight = weight

    def __call__(self, candidates: Candidates, gt: InstanceData) -> Tensor:
        logits = candidates.masks
        return between_points(F.softplus(-logits), F.softplus(logits), gt.masks) / logits.shape[-1] * self.weight


def between_points(positive: Tensor, negative: Tensor, targets: Tensor) -> Tensor:
    """Return costs (..., A, G), summed over points, from costs (..., A, P) for target 1 and for target 0, and targets (G, P)."""
    targets = targets.to(positive)
    return (positive - negative) @ targets.mT + negative.sum(-1, keepdim=True)
