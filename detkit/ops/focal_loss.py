"""Focal loss per row of logits (https://arxiv.org/abs/1708.02002)."""
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CACHED = 1 << 16   # elements of a chunk that fits into the CPU cache


def sigmoid_focal_loss(logits: Tensor, labels: Tensor, gamma: float = 2., alpha: float = .25) -> Tensor:
    """Return the focal loss (n,), summed over classes (https://arxiv.org/abs/1708.02002, eq. 5).

    ``logits`` (n, K); ``labels`` (n,) int64 in [0, K]; K is background, for which all classes are negatives.
    """
    return SigmoidFocalLoss.apply(logits, labels, gamma, alpha)


class SigmoidFocalLoss(torch.autograd.Function):
    """Compute loss and gradient in one pass, in chunks that fit into the CPU cache.

    Positives are few. Therefore every element is computed as a negative first, and then the positives are replaced. This needs neither a
    one-hot target nor a weight of the size of the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
        losses, slopes = logits.new_empty(len(logits)), torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        piece = max(CACHED // max(logits.shape[1], 1), 1) if logits.device.type == 'cpu' else max(len(logits), 1)
        for start in range(0, len(logits), piece):
            part = slice(start, start + piece)
            loss, slope = focal(logits[part], gamma, 1 - alpha, slopes is not None)
            losses[part] = loss.sum(1)
            if slope is not None:
                slopes[part] = slope
        positive = (labels < logits.shape[1]).nonzero().squeeze(1)
        column = labels[positive]
        chosen = logits[positive, column]
        loss, slope = focal(-chosen, gamma, alpha, slopes is not None)
        losses[positive] += loss - focal(chosen, gamma, 1 - alpha, False)[0]
        if slope is not None:
            slopes[positive, column] = -slope
            ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        slopes, = ctx.saved_tensors
        return slopes * grad[:, None], None, None, None


def focal(logits: Tensor, gamma: float, weight: float, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    """Return the focal loss of logits with target 0, and its derivative if ``with_slope``."""
    p, cost = logits.sigmoid(), F.softplus(logits)
    focus = weight * p.pow(gamma)
    loss = focus * cost
    return loss, focus.mul_((1 - p).mul_(cost).mul_(gamma).add_(p)) if with_slope else None
