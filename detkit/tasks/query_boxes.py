"""How a query's four numbers become a box. Boxes are cxcywh as shares of the image here."""
from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class SigmoidBoxes:
    """``sigmoid(raw + logit(reference))``; a reference that is a point (x, y) moves the centre alone (Deformable DETR, Sec. A.3).

    ``eps``: references are at least this far from 0 and 1.
    """

    eps: float = 1e-5

    def __call__(self, raw: Tensor, reference: Tensor) -> Tensor:
        """(..., 4), (..., 2 or 4) in [0, 1] -> (..., 4) in float32."""
        logits = inverse_sigmoid(reference.float(), self.eps)
        return (raw.float() + F.pad(logits, (0, 4 - logits.shape[-1]))).sigmoid()


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)), numerator and denominator between ``eps`` and 1."""
    return (x.clamp(eps, 1.) / (1 - x).clamp(eps, 1.)).log()
