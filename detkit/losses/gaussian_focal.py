"""Focal loss for heatmaps (CornerNet, https://arxiv.org/abs/1808.01244, eq. 1)."""
from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from detkit.losses.weighting import reduce_loss
from detkit.registry import MODELS

EPS = 1e-12


@MODELS.register_module()
class GaussianFocalLoss(nn.Module):
    """Focal loss for Gaussian heatmaps: elements with target 1 are positive; the loss of a negative decreases as its target approaches 1.

    ``alpha``: exponent of the prediction's error; ``gamma``: exponent of 1 - target of a negative.
    """

    def __init__(self, alpha: float = 2., gamma: float = 4., reduction: str = 'mean', loss_weight: float = 1., pos_weight: float = 1.,
                 neg_weight: float = 1.) -> None:
        super().__init__()
        self.alpha, self.gamma, self.reduction, self.loss_weight = alpha, gamma, reduction, loss_weight
        self.pos_weight, self.neg_weight = pos_weight, neg_weight

    def forward(self, pred: Tensor, target: Tensor, positives: tuple[Tensor, ...] | None = None, weight: Tensor | None = None,
                avg_factor: float | Tensor | None = None, reduction_override: str | None = None) -> Tensor:
        """Return the loss of ``pred``, probabilities, with ``target`` of the same shape, in [0, 1].

        ``positives``: one index (P,) per dimension of ``pred``. If given, these elements are the positives instead of the elements with
        target 1. Every element then also has the loss of a negative with its target. An element that is listed twice counts twice.
        """
        if positives is None:
            positives = (target == 1).nonzero(as_tuple=True)
        loss = self.neg_weight * -(1 - pred + EPS).log() * pred**self.alpha * (1 - target)**self.gamma
        chosen = pred[positives]
        loss = loss.index_put(positives, self.pos_weight * -(chosen + EPS).log() * (1 - chosen)**self.alpha, accumulate=True)
        return self.loss_weight * reduce_loss(loss, weight, reduction_override or self.reduction, avg_factor)
