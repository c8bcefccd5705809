"""The Dice loss of masks."""
from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from detkit.losses.weighting import reduce_loss
from detkit.registry import MODELS


@MODELS.register_module()
class DiceLoss(nn.Module):
    """1 - 2 * intersection / (sum of both areas) (V-Net, https://arxiv.org/abs/1606.04797, Sec. 3).

    Args:
        activate: predictions are logits; False: scores in [0, 1].
        naive_dice: areas are sums of scores; otherwise sums of squared scores, as in the paper.
        eps: added to the denominator, and with ``naive_dice`` also to the numerator.
    """

    def __init__(self, use_sigmoid: bool = True, activate: bool = True, reduction: str = 'mean', naive_dice: bool = False,
                 loss_weight: float = 1., eps: float = 1e-3) -> None:
        super().__init__()
        if activate and not use_sigmoid:
            raise ValueError('DiceLoss(use_sigmoid=False) is not defined for logits. Set use_sigmoid=True, or activate=False for scores.')
        self.use_sigmoid, self.activate, self.naive_dice = use_sigmoid, activate, naive_dice
        self.reduction, self.loss_weight, self.eps = reduction, loss_weight, eps

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, avg_factor: float | Tensor | None = None,
                reduction_override: str | None = None) -> Tensor:
        """Return the loss of ``pred`` (n, ...) with ``target`` in [0, 1] of the same shape and ``weight`` (n,)."""
        pred, target = (pred.sigmoid() if self.activate else pred).flatten(1), target.flatten(1).to(pred)
        shared = (pred * target).sum(1)
        if self.naive_dice:
            loss = 1 - (2 * shared + self.eps) / (pred.sum(1) + target.sum(1) + self.eps)
        else:
            loss = 1 - 2 * shared / (pred.square().sum(1) + target.square().sum(1) + 2 * self.eps)
        return self.loss_weight * reduce_loss(loss, weight, reduction_override or self.reduction, avg_factor)
