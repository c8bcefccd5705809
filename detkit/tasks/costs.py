"""What it costs a query (or a prior) to take an object. A matcher sums several.

Each is an object with one call, ``(candidates, gt) -> (..., A, G)`` for A candidates and G objects; the leading dimensions are those of
the candidates' predictions. All are computed in float32 and times ``weight``.
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
    """Minus the softmax score of the object's class (DETR, https://arxiv.org/abs/2005.12872, Sec. 3.1)."""

    def __init__(self, weight: float = 1.) -> None:
        self.weight = weight

    def __call__(self, candidates: Candidates, gt: InstanceData) -> Tensor:
        return -candidates.logits.softmax(-1)[..., gt.labels] * self.weight


@TASK_UTILS.register_module()
class FocalLossCost:
    """Focal loss of the object's class as a positive, less that as a negative (Deformable DETR's, in place of DETR's score).

    ``binary_input``: of a mask's points, the mean over them, in place of a class.
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
        """Elementwise focal loss towards 1 and towards 0."""
        p = logits.sigmoid()
        return (-(p + self.eps).log() * self.alpha * (1 - p)**self.gamma,
                -(1 - p + self.eps).log() * (1 - self.alpha) * p**self.gamma)


@TASK_UTILS.register_module()
class BinaryFocalLossCost(FocalLossCost):
    """Focal loss between the logits of text tokens and an object's ``positive_maps`` (G, T) over the tokens that ``text_token_mask`` says
    are there; summed (Grounding DINO, https://arxiv.org/abs/2303.05499)."""

    def __call__(self, candidates: Candidates, gt: InstanceData) -> Tensor:
        tokens = gt.text_token_mask[0].nonzero().squeeze(1)
        return between_points(*self.terms(candidates.logits[..., tokens]), gt.positive_maps[:, tokens]) * self.weight


@TASK_UTILS.register_module()
class BBoxL1Cost:
    """L1 distance of boxes as shares of the image; ``box_format``: 'xyxy' corners or 'xywh' centre and size."""

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
    """Minus the overlap; ``iou_mode``: 'iou' or 'giou'."""

    def __init__(self, iou_mode: str = 'giou', weight: float = 1.) -> None:
        if iou_mode not in ('iou', 'giou'):
            raise ConfigError(f"IoUCost iou_mode='{iou_mode}' is unknown. Known: iou, giou.")
        self.iou_mode, self.weight = iou_mode, weight

    def __call__(self, candidates: Candidates, gt: InstanceData) -> Tensor:
        return -aligned_iou(candidates.boxes[..., :, None, :], gt.bboxes, self.iou_mode) * self.weight


@TASK_UTILS.register_module()
class DiceCost:
    """Dice loss of masks at sampled points (MaskFormer, https://arxiv.org/abs/2107.06278, Sec. 3.2).

    ``pred_act``: predictions are logits, take their sigmoid; ``naive_dice``: sums in the denominator, else sums of squares.
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
    """Binary cross entropy of masks at sampled points, the mean over them."""

    def __init__(self, use_sigmoid: bool = True, weight: float = 1.) -> None:
        if not use_sigmoid:
            raise ConfigError('CrossEntropyLossCost(use_sigmoid=False) is not defined: a mask has one logit a point.')
        self.weight = weight

    def __call__(self, candidates: Candidates, gt: InstanceData) -> Tensor:
        logits = candidates.masks
        return between_points(F.softplus(-logits), F.softplus(logits), gt.masks) / logits.shape[-1] * self.weight


def between_points(positive: Tensor, negative: Tensor, targets: Tensor) -> Tensor:
    """(..., A, P) costs where a target is 1 and where it is 0, targets (G, P) -> (..., A, G), summed over points."""
    targets = targets.to(positive)
    return (positive - negative) @ targets.mT + negative.sum(-1, keepdim=True)
