"""Box regression losses."""
from __future__ import annotations

import math

import torch
import torch.nn as nn
from torch import Tensor

from detkit.losses.weighting import reduce_loss
from detkit.ops.boxes import aligned_iou
from detkit.registry import MODELS


class CoordinateLoss(nn.Module):
    """Base class of losses per coordinate; subclasses define ``cost``. ``pred``, ``target``, ``weight``: (n, 4) or any equal shapes."""

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.) -> None:
        super().__init__()
        self.reduction, self.loss_weight = reduction, loss_weight

    def cost(self, difference: Tensor) -> Tensor:
        """Return the elementwise loss of the difference ``pred - target``."""
        raise NotImplementedError(f'{type(self).__name__} defines no cost().')

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, avg_factor: float | None = None,
                reduction_override: str | None = None) -> Tensor:
        return self.loss_weight * reduce_loss(self.cost(pred - target), weight, reduction_override or self.reduction, avg_factor)


@MODELS.register_module()
class L1Loss(CoordinateLoss):

    def cost(self, difference: Tensor) -> Tensor:
        return difference.abs()


@MODELS.register_module()
class MSELoss(CoordinateLoss):

    def cost(self, difference: Tensor) -> Tensor:
        return difference**2


@MODELS.register_module()
class SmoothL1Loss(CoordinateLoss):
    """Quadratic below ``beta``, linear above (Fast R-CNN, https://arxiv.org/abs/1504.08083, eq. 3)."""

    def __init__(self, beta: float = 1., reduction: str = 'mean', loss_weight: float = 1.) -> None:
        super().__init__(reduction, loss_weight)
        if beta <= 0:
            raise ValueError(f'SmoothL1Loss beta={beta} must be positive; L1Loss is its limit at 0.')
        self.beta = beta

    def cost(self, difference: Tensor) -> Tensor:
        size = difference.abs()
        return torch.where(size < self.beta, 0.5 * size**2 / self.beta, size - 0.5 * self.beta)


@MODELS.register_module()
class BalancedL1Loss(CoordinateLoss):
    """Loss that gives small errors a larger gradient than smooth L1 (Libra R-CNN, https://arxiv.org/abs/1904.02701, eq. 9)."""

    def __init__(self, alpha: float = .5, gamma: float = 1.5, beta: float = 1., reduction: str = 'mean',
                 loss_weight: float = 1.) -> None:
        super().__init__(reduction, loss_weight)
        self.alpha, self.gamma, self.beta = alpha, gamma, beta

    def cost(self, difference: Tensor) -> Tensor:
        size = difference.abs()
        b = math.exp(self.gamma / self.alpha) - 1
        inner = self.alpha / b * (b * size + 1) * torch.log(b * size / self.beta + 1) - self.alpha * size
        return torch.where(size < self.beta, inner, self.gamma * size + self.gamma / b - self.alpha * self.beta)


class OverlapLoss(nn.Module):
    """Base class of losses per box. ``pred``, ``target``: (n, 4) xyxy in pixels; ``weight``: (n,), or (n, 4), which is averaged per box."""

    def __init__(self, eps: float = 1e-6, reduction: str = 'mean', loss_weight: float = 1.) -> None:
        super().__init__()
        self.eps, self.reduction, self.loss_weight = eps, reduction, loss_weight

    def cost(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss (n,) per box, or (n, 4) per coordinate, from boxes (n, 4) and (n, 4)."""
        raise NotImplementedError(f'{type(self).__name__} defines no cost().')

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, avg_factor: float | None = None,
                reduction_override: str | None = None) -> Tensor:
        cost = self.cost(pred, target)
        if weight is not None and weight.dim() > cost.dim():
            weight = weight.mean(-1)
        elif weight is not None and weight.dim() < cost.dim():
            weight = weight[:, None]
        return self.loss_weight * reduce_loss(cost, weight, reduction_override or self.reduction, avg_factor)


@MODELS.register_module()
class IoULoss(OverlapLoss):
    """-log IoU (UnitBox, https://arxiv.org/abs/1608.01471); ``mode='linear'``: 1 - IoU, ``'square'``: 1 - IoU^2."""

    def __init__(self, linear: bool = False, eps: float = 1e-6, reduction: str = 'mean', loss_weight: float = 1.,
                 mode: str = 'log') -> None:
        super().__init__(eps, reduction, loss_weight)
        if mode not in ('linear', 'square', 'log'):
            raise ValueError(f"IoULoss mode '{mode}' is unknown. Known: linear, square, log.")
        self.mode = 'linear' if linear else mode

    def cost(self, pred: Tensor, target: Tensor) -> Tensor:
        iou = aligned_iou(pred, target).clamp(min=self.eps)
        return {'linear': lambda: 1 - iou, 'square': lambda: 1 - iou**2, 'log': lambda: -iou.log()}[self.mode]()


@MODELS.register_module()
class GIoULoss(OverlapLoss):
    """1 - GIoU (https://arxiv.org/abs/1902.09630)."""

    def cost(self, pred: Tensor, target: Tensor) -> Tensor:
        return 1 - aligned_iou(pred, target, 'giou', self.eps)


@MODELS.register_module()
class DIoULoss(OverlapLoss):
    """1 - DIoU (https://arxiv.org/abs/1911.08287)."""

    def cost(self, pred: Tensor, target: Tensor) -> Tensor:
        return 1 - aligned_iou(pred, target, 'diou', self.eps)


@MODELS.register_module()
class CIoULoss(OverlapLoss):
    """1 - CIoU (https://arxiv.org/abs/1911.08287)."""

    def cost(self, pred: Tensor, target: Tensor) -> Tensor:
        return 1 - aligned_iou(pred, target, 'ciou', self.eps)


@MODELS.register_module()
class BoundedIoULoss(OverlapLoss):
    """Smooth L1 loss of an upper bound of the IoU for each coordinate (https://arxiv.org/abs/1711.00164)."""

    def __init__(self, beta: float = .2, eps: float = 1e-3, reduction: str = 'mean', loss_weight: float = 1.) -> None:
        super().__init__(eps, reduction, loss_weight)
        self.beta = beta

    def cost(self, pred: Tensor, target: Tensor) -> Tensor:
        size_p, size_t = pred[:, 2:] - pred[:, :2], (target[:, 2:] - target[:, :2])
        shift = ((target[:, :2] + target[:, 2:]) / 2 - (pred[:, :2] + pred[:, 2:]) / 2).abs()
        by_shift = ((size_t - 2 * shift) / (size_t + 2 * shift + self.eps)).clamp(min=0)
        by_size = torch.min(size_t / (size_p + self.eps), size_p / (size_t + self.eps))
        gap = 1 - torch.cat([by_shift, by_size], -1)
        return torch.where(gap < self.beta, 0.5 * gap**2 / self.beta, gap - 0.5 * self.beta)
