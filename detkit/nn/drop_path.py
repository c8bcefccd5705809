"""Stochastic depth."""
from __future__ import annotations

import torch.nn as nn
from torch import Tensor


class DropPath(nn.Module):
    """During training, drop a residual branch for random samples and scale it up for the others (https://arxiv.org/abs/1603.09382, with the
    scaling of dropout, so that evaluation needs no change).

    ``drop_prob``: fraction of samples, in [0, 1).
    """

    def __init__(self, drop_prob: float = 0.) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Return x (N, ...) with dropped samples set to zero; the shape is kept."""
        if not self.training or self.drop_prob == 0:
            return x
        kept = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1 - self.drop_prob)
        return x * kept / (1 - self.drop_prob)
