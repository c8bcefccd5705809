"""Boxes <-> the numbers a head regresses."""
from __future__ import annotations

import math

import torch
from torch import Tensor

from detkit.ops.boxes import clip_boxes
from detkit.registry import TASK_UTILS


@TASK_UTILS.register_module()
class DeltaXYWHBBoxCoder:
    """Centre shift in units of the prior's size, log of the size ratio (R-CNN, https://arxiv.org/abs/1311.2524, Appendix C).

    ``clip_border``: decoded boxes end at the image's border. ``add_ctr_clamp``: the centre moves at most ``ctr_clamp`` pixels
    (YOLOF, https://arxiv.org/abs/2103.09460). ``wh_ratio_clip``: the size changes at most by this factor and its inverse.
    """

    encode_size = 4

    def __init__(self, target_means: tuple = (0., 0., 0., 0.), target_stds: tuple = (1., 1., 1., 1.), clip_border: bool = True,
                 add_ctr_clamp: bool = False, ctr_clamp: float = 32, wh_ratio_clip: float = 16 / 1000) -> None:
        self.means, self.stds, self.clip_border = tuple(target_means), tuple(target_stds), clip_border
        self.max_shift = ctr_clamp if add_ctr_clamp else None
        self.max_log_ratio = abs(math.log(wh_ratio_clip))

    def encode(self, priors: Tensor, boxes: Tensor) -> Tensor:
        """(n, 4), (n, 4) -> (n, 4) normalised (dx, dy, dw, dh)."""
        size_p, size_b = priors[:, 2:] - priors[:, :2], boxes[:, 2:] - boxes[:, :2]
        shift = ((boxes[:, :2] + boxes[:, 2:]) / 2 - (priors[:, :2] + priors[:, 2:]) / 2) / size_p
        deltas = torch.cat([shift, (size_b / size_p).log()], -1)
        return (deltas - deltas.new_tensor(self.means)) / deltas.new_tensor(self.stds)

    def decode(self, priors: Tensor, deltas: Tensor, max_shape: tuple[int, int] | None = None) -> Tensor:
        """(..., 4), (..., 4) -> (..., 4) boxes, clipped to ``max_shape`` (height, width) if given."""
        deltas = deltas * deltas.new_tensor(self.stds) + deltas.new_tensor(self.means)
        size_p = priors[..., 2:] - priors[..., :2]
        shift, log_ratio = size_p * deltas[..., :2], deltas[..., 2:]
        if self.max_shift is not None:
            shift, log_ratio = shift.clamp(-self.max_shift, self.max_shift), log_ratio.clamp(max=self.max_log_ratio)
        else:
            log_ratio = log_ratio.clamp(-self.max_log_ratio, self.max_log_ratio)
        center, half = (priors[..., :2] + priors[..., 2:]) / 2 + shift, size_p * log_ratio.exp() / 2
        boxes = torch.cat([center - half, center + half], -1)
        return clip_boxes(boxes, max_shape) if self.clip_border and max_shape else boxes


@TASK_UTILS.register_module()
class DistancePointBBoxCoder:
    """Distances from a point to the left, top, right and bottom side, in pixels (FCOS, https://arxiv.org/abs/1904.01355, eq. 1)."""

    encode_size = 4

    def __init__(self, clip_border: bool = True) -> None:
        self.clip_border = clip_border

    def encode(self, points: Tensor, boxes: Tensor, max_dis: float | None = None, eps: float = 0.1) -> Tensor:
        """(n, 2+), (n, 4) -> (n, 4); with ``max_dis``, clamped to [0, max_dis - eps]."""
        distances = torch.cat([points[:, :2] - boxes[:, :2], boxes[:, 2:] - points[:, :2]], -1)
        return distances if max_dis is None else distances.clamp(0, max_dis - eps)

    def decode(self, points: Tensor, distances: Tensor, max_shape: tuple[int, int] | None = None) -> Tensor:
        """(..., 2+), (..., 4) -> (..., 4) boxes, clipped to ``max_shape`` (height, width) if given."""
        boxes = torch.cat([points[..., :2] - distances[..., :2], points[..., :2] + distances[..., 2:]], -1)
        return clip_boxes(boxes, max_shape) if self.clip_border and max_shape else boxes
