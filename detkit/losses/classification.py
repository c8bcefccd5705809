"""Classification losses."""
from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from detkit.losses.weighting import reduce_loss
from detkit.ops.focal_loss import sigmoid_focal_loss
from detkit.registry import MODELS


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Return one-hot targets (n, num_classes) float from labels (n,) int64; all zeros for background = num_classes."""
    return F.one_hot(labels, num_classes + 1)[:, :num_classes].float()


def per_row(weight: Tensor | None, loss: Tensor) -> Tensor | None:
    """Reshape a weight per prior so that it broadcasts with a loss per prior and class."""
    return weight[:, None] if weight is not None and weight.dim() < loss.dim() else weight


@MODELS.register_module()
class FocalLoss(nn.Module):
    """Focal loss on sigmoid scores (https://arxiv.org/abs/1708.02002, eq. 5).

    ``activated``: predictions are probabilities, not logits. Targets: labels (n,), background = K, or per-class targets (n, K).
    """

    background_channel = False

    def __init__(self, use_sigmoid: bool = True, gamma: float = 2., alpha: float = .25, reduction: str = 'mean',
                 loss_weight: float = 1., activated: bool = False) -> None:
        super().__init__()
        if not use_sigmoid:
            raise ValueError('FocalLoss(use_sigmoid=False) is not defined: the paper uses the sigmoid.')
        self.use_sigmoid, self.gamma, self.alpha = use_sigmoid, gamma, alpha
        self.reduction, self.loss_weight, self.activated = reduction, loss_weight, activated

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, avg_factor: float | None = None,
                reduction_override: str | None = None) -> Tensor:
        """Return the loss of ``pred`` (n, K), logits (probabilities if ``activated``), with ``target`` (n,) or (n, K)."""
        reduction = reduction_override or self.reduction
        if self.activated or target.dim() == pred.dim() or reduction == 'none' or (weight is not None and weight.dim() == pred.dim()):
            loss = self.dense(pred, (one_hot(target, pred.shape[1]) if target.dim() == 1 else target).to(pred))
            return self.loss_weight * reduce_loss(loss, per_row(weight, loss), reduction, avg_factor)
        loss = sigmoid_focal_loss(pred, target, self.gamma, self.alpha)               # (n,), summed over K classes
        if reduction == 'mean' and avg_factor is None:
            loss = loss / pred.shape[1]
        return self.loss_weight * reduce_loss(loss, weight, reduction, avg_factor)

    def dense(self, pred: Tensor, target: Tensor) -> Tensor:
        p = pred if self.activated else pred.sigmoid()
        bce = F.binary_cross_entropy(p, target, reduction='none') if self.activated else \
            F.binary_cross_entropy_with_logits(pred, target, reduction='none')
        wrong = (1 - p) * target + p * (1 - target)
        return bce * (self.alpha * target + (1 - self.alpha) * (1 - target)) * wrong**self.gamma


@MODELS.register_module()
class QualityFocalLoss(nn.Module):
    """Focal loss with a soft target, the IoU of the prediction (GFL, https://arxiv.org/abs/2006.04388, eq. 3)."""

    background_channel = False

    def __init__(self, use_sigmoid: bool = True, beta: float = 2., reduction: str = 'mean', loss_weight: float = 1.,
                 activated: bool = False) -> None:
        super().__init__()
        if not use_sigmoid:
            raise ValueError('QualityFocalLoss(use_sigmoid=False) is not defined: the paper uses the sigmoid.')
        self.use_sigmoid, self.beta, self.activated = use_sigmoid, beta, activated
        self.reduction, self.loss_weight = reduction, loss_weight

    def forward(self, pred: Tensor, target: tuple[Tensor, Tensor] | Tensor, weight: Tensor | None = None,
                avg_factor: float | None = None, reduction_override: str | None = None) -> Tensor:
        """Return the loss of ``pred`` (n, K). ``target``: labels (n,), background = K, and qualities (n,) in [0, 1]; or soft targets (n,
        K)."""
        loss = self.per_prior(pred, *target) if isinstance(target, (tuple, list)) else \
            self.elementwise(pred, target).sum(-1)
        return self.loss_weight * reduce_loss(loss, weight, reduction_override or self.reduction, avg_factor)

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        if self.activated:
            return F.binary_cross_entropy(pred, target, reduction='none') * (target - pred).abs()**self.beta
        return F.binary_cross_entropy_with_logits(pred, target, reduction='none') \
            * (target - pred.sigmoid()).abs()**self.beta

    def per_prior(self, pred: Tensor, labels: Tensor, quality: Tensor) -> Tensor:
        """Return the loss (n,) per prior: the target is the quality for the label's class and 0 for all other classes."""
        if self.activated:
            loss = self.elementwise(pred, torch.zeros_like(pred))
        else:
            loss = F.softplus(pred) * pred.sigmoid()**self.beta
        positive = (labels < pred.shape[1]).nonzero().squeeze(1)
        column = labels[positive]
        return loss.index_put((positive, column), self.elementwise(pred[positive, column], quality[positive].to(pred))).sum(1)


@MODELS.register_module()
class DistributionFocalLoss(nn.Module):
    """Cross entropy with the two integers around a real target, weighted by its distance to each (GFL, eq. 6)."""

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.) -> None:
        super().__init__()
        self.reduction, self.loss_weight = reduction, loss_weight

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, avg_factor: float | None = None,
                reduction_override: str | None = None) -> Tensor:
        """Return the loss of ``pred`` (n, reg_max + 1), logits, with ``target`` (n,) in [0, reg_max)."""
        low = target.long()
        above = target - low
        loss = F.cross_entropy(pred, low, reduction='none') * (1 - above) + F.cross_entropy(pred, low + 1, reduction='none') * above
        return self.loss_weight * reduce_loss(loss, weight, reduction_override or self.reduction, avg_factor)


@MODELS.register_module()
class CrossEntropyLoss(nn.Module):
    """Softmax cross entropy over classes and background; with ``use_sigmoid``, binary cross entropy per class; with ``use_mask``, binary
    cross entropy per pixel of the mask of the label's class.

    ``class_weight``: one factor per class (with softmax, background is last; with sigmoid, it applies to positive targets only).
    ``ignore_index``: label without loss; with sigmoid, negative labels have no loss either. ``avg_non_ignore``: without an avg_factor,
    divide by the number of elements that are not ignored.
    """

    def __init__(self, use_sigmoid: bool = False, use_mask: bool = False, reduction: str = 'mean',
                 class_weight: list[float] | None = None, ignore_index: int | None = None, loss_weight: float = 1.,
                 avg_non_ignore: bool = False) -> None:
        super().__init__()
        if use_sigmoid and use_mask:
            raise ValueError('CrossEntropyLoss: use_sigmoid and use_mask exclude each other.')
        self.use_sigmoid, self.use_mask, self.background_channel = use_sigmoid, use_mask, not (use_sigmoid or use_mask)
        self.reduction, self.loss_weight, self.avg_non_ignore = reduction, loss_weight, avg_non_ignore
        self.ignore_index = -100 if ignore_index is None else ignore_index
        self.class_weight = class_weight

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, avg_factor: float | None = None,
                reduction_override: str | None = None, ignore_index: int | None = None) -> Tensor:
        """Return the loss.

        Softmax: ``pred`` (n, C) and labels (n,). Sigmoid: ``pred`` (n, K) or (n,), and labels (n,) or targets of the shape of ``pred``.
        Mask: ``pred`` (n, K, h, w), ``target`` (n, h, w) in [0, 1], and the labels (n,) in place of ``weight``.
        """
        ignore = self.ignore_index if ignore_index is None else ignore_index
        class_weight = None if self.class_weight is None else pred.new_tensor(self.class_weight)
        if self.use_mask:
            return self.loss_weight * self.mask_loss(pred, target, labels=weight, class_weight=class_weight)
        if self.use_sigmoid:
            loss, weight, kept = self.sigmoid_loss(pred, target, weight, (target >= 0) & (target != ignore), class_weight)
        else:
            loss, kept = F.cross_entropy(pred, target, class_weight, reduction='none', ignore_index=ignore), target != ignore
        if self.avg_non_ignore and avg_factor is None and (reduction_override or self.reduction) == 'mean':
            avg_factor = kept.sum().item()
        return self.loss_weight * reduce_loss(loss, weight, reduction_override or self.reduction, avg_factor)

    @staticmethod
    def sigmoid_loss(pred: Tensor, target: Tensor, weight: Tensor | None, kept: Tensor,
                     class_weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, its weight, and the mask of elements that are not ignored, all with the shape of ``pred``."""
        if pred.dim() != target.dim():
            if pred.shape[1] == 1 and pred.dim() == 2 and target.dtype != torch.long:
                pred = pred.squeeze(1)
            else:
                target = one_hot(target.where(kept, target.new_tensor(pred.shape[1])), pred.shape[1])
                kept = kept[:, None].expand_as(target)
        loss = F.binary_cross_entropy_with_logits(pred, target.to(pred), pos_weight=class_weight, reduction='none')
        weight = per_row(weight, loss)
        return loss, kept.to(pred) if weight is None else weight * kept, kept

    @staticmethod
    def mask_loss(pred: Tensor, target: Tensor, labels: Tensor, class_weight: Tensor | None) -> Tensor:
        chosen = pred[torch.arange(len(pred), device=pred.device), labels]
        weight = None if class_weight is None else class_weight[labels][:, None, None]
        loss = F.binary_cross_entropy_with_logits(chosen, target.to(pred), weight, reduction='none')
        return reduce_loss(loss, None, 'mean', None)[None]
