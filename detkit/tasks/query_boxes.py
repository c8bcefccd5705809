"""Convert the four outputs of a query to a box. Boxes are cxcywh, normalised by the image size."""
from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class SigmoidBoxes:
    """``sigmoid(raw + logit(reference))``; a reference point (x, y) changes only the centre (Deformable DETR, Sec. A.3).

    ``eps``: references are clamped to this distance from 0 and 1.
    """

    eps: float = 1e-5

    def __call__(self, raw: Tensor, reference: Tensor) -> Tensor:
        """Return boxes (..., 4) in float32 from predictions (..., 4) and references (..., 2 or 4) in [0, 1]."""
        logits = inverse_sigmoid(reference.float(), self.eps)
        return (raw.float() + F.pad(logits, (0, 4 - logits.shape[-1]))).sigmoid()


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Return log(x / (1 - x)), with numerator and denominator clamped to [eps, 1]."""
    return (x.clamp(eps, 1.) / (1 - x).clamp(eps, 1.)).log()
