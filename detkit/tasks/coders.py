"""Box coders: convert boxes to regression targets and predictions to boxes."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.ops.boxes import ImageSize, clip_boxes
from detkit.registry import TASK_UTILS, ConfigError


@TASK_UTILS.register_module()
class DeltaXYWHBBoxCoder:
    """Shift of the centre relative to the prior's size, and log of the size ratio (R-CNN, https://arxiv.org/abs/1311.2524, Appendix C).

    ``clip_border``: clip decoded boxes to the image. ``add_ctr_clamp``: limit the shift of the centre to ``ctr_clamp`` pixels (YOLOF,
    https://arxiv.org/abs/2103.09460). ``wh_ratio_clip``: limit the change of the size to this factor and its inverse.
    """

    encode_size = 4

    def __init__(self, target_means: tuple[float, ...] = (0., 0., 0., 0.), target_stds: tuple[float, ...] = (1., 1., 1., 1.),
                 clip_border: bool = True, add_ctr_clamp: bool = False, ctr_clamp: float = 32, wh_ratio_clip: float = 16 / 1000) -> None:
        self.means, self.stds, self.clip_border = tuple(target_means), tuple(target_stds), clip_border
        self.max_shift = ctr_clamp if add_ctr_clamp else None
        self.max_log_ratio = abs(math.log(wh_ratio_clip))

    def encode(self, priors: Tensor, boxes: Tensor) -> Tensor:
        """Return normalised (dx, dy, dw, dh) (n, 4) for priors (n, 4) and boxes (n, 4); finite also for boxes without area."""
        size_p, size_b = ((x[:, 2:] - x[:, :2]).clamp(min=1e-6) for x in (priors, boxes))
        shift = ((boxes[:, :2] + boxes[:, 2:]) / 2 - (priors[:, :2] + priors[:, 2:]) / 2) / size_p
        deltas = torch.cat([shift, (size_b / size_p).log()], -1)
        return (deltas - deltas.new_tensor(self.means)) / deltas.new_tensor(self.stds)

    def decode(self, priors: Tensor, deltas: Tensor, max_shape: ImageSize | None = None) -> Tensor:
        """Return boxes (..., 4) from priors (..., 4) and deltas (..., 4), clipped to ``max_shape`` if given.

        ``max_shape``: (height, width), or for boxes (B, n, 4) one size for each of B images, as numbers or a tensor.
        """
        deltas = deltas * deltas.new_tensor(self.stds) + deltas.new_tensor(self.means)
        size_p = priors[..., 2:] - priors[..., :2]
        shift, log_ratio = size_p * deltas[..., :2], deltas[..., 2:]
        if self.max_shift is not None:
            shift, log_ratio = shift.clamp(-self.max_shift, self.max_shift), log_ratio.clamp(max=self.max_log_ratio)
        else:
            log_ratio = log_ratio.clamp(-self.max_log_ratio, self.max_log_ratio)
        center, half = (priors[..., :2] + priors[..., 2:]) / 2 + shift, size_p * log_ratio.exp() / 2
        boxes = torch.cat([center - half, center + half], -1)
        return clip_boxes(boxes, max_shape) if self.clip_border and max_shape is not None else boxes


@TASK_UTILS.register_module()
class DistancePointBBoxCoder:
    """Distances from a point to the left, top, right and bottom side in pixels (FCOS, https://arxiv.org/abs/1904.01355, eq. 1)."""

    encode_size = 4

    def __init__(self, clip_border: bool = True) -> None:
        self.clip_border = clip_border

    def encode(self, points: Tensor, boxes: Tensor, max_dis: float | None = None, eps: float = 0.1) -> Tensor:
        """Return distances (n, 4) from points (n, 2+) to the sides of boxes (n, 4); with ``max_dis``, clamped to [0, max_dis - eps]."""
        distances = torch.cat([points[:, :2] - boxes[:, :2], boxes[:, 2:] - points[:, :2]], -1)
        return distances if max_dis is None else distances.clamp(0, max_dis - eps)

    def decode(self, points: Tensor, distances: Tensor, max_shape: ImageSize | None = None) -> Tensor:
        """Return boxes (..., 4) from points (..., 2+) and distances (..., 4), clipped to ``max_shape`` if given.

        ``max_shape``: (height, width), or for boxes (B, n, 4) one size for each of B images, as numbers or a tensor.
        """
        boxes = torch.cat([points[..., :2] - distances[..., :2], points[..., :2] + distances[..., 2:]], -1)
        return clip_boxes(boxes, max_shape) if self.clip_border and max_shape is not None else boxes


@TASK_UTILS.register_module()
class BucketingBBoxCoder:
    """Each side of a box is encoded as a bucket, and as the offset from the bucket's centre in bucket widths (SABL,
    https://arxiv.org/abs/1912.04260, Sec. 3.2 and 3.3).

    The prior, enlarged ``scale_factor`` times, is divided into ``num_buckets`` along each axis. Each side has S = ceil(``num_buckets`` / 2)
    buckets, counted from the outside to the centre. The order of the sides is left, right, top, bottom.

    Args:
        offset_topk: offsets are trained for this many nearest buckets; all but the first must be within ``offset_upperbound`` bucket
            widths.
        cls_ignore_neighbor: ignore the second-nearest bucket in the classification if it is within one bucket width.
        clip_border: clip decoded boxes to the last pixel of the image, as in MMDetection.
    """

    def __init__(self, num_buckets: int, scale_factor: float, offset_topk: int = 2, offset_upperbound: float = 1.,
                 cls_ignore_neighbor: bool = True, clip_border: bool = True) -> None:
        if num_buckets < 2 or not 1 <= offset_topk <= -(-num_buckets // 2):
            raise ConfigError(f'BucketingBBoxCoder num_buckets={num_buckets} must be at least 2 and offset_topk={offset_topk} '
                              f'lie between 1 and half of it.')
        self.num_buckets, self.side_num, self.scale_factor = num_buckets, -(-num_buckets // 2), scale_factor
        self.offset_topk, self.offset_upperbound = offset_topk, offset_upperbound
        self.cls_ignore_neighbor, self.clip_border = cls_ignore_neighbor, clip_border
        self.encode_size = 4 * self.side_num

    def buckets(self, priors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the centres (..., 4, S) of the buckets of each side and the bucket widths (..., 4, 1) of boxes (..., 4), in pixels."""
        center, half = (priors[..., :2] + priors[..., 2:]) / 2, (priors[..., 2:] - priors[..., :2]) * self.scale_factor / 2
        outer = torch.cat([center - half, center + half], -1)[..., [0, 2, 1, 3], None]
        width = (2 * half / self.num_buckets)[..., [0, 0, 1, 1], None]
        inward = outer.new_tensor([1, -1, 1, -1])[:, None] * (torch.arange(self.side_num, device=priors.device) + 0.5)
        return outer + inward * width, width

    def encode(self, priors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return bucket targets (0 or 1) and their weights, offsets and their weights, each (n, 4, S), for priors (n, 4) and boxes (n,
        4)."""
        centers, width = self.buckets(priors)
        offsets = (centers - boxes[:, [0, 2, 1, 3], None]) / width
        distance, order = offsets.abs().topk(self.offset_topk, -1, largest=False)
        right = F.one_hot(order[..., 0], self.side_num).to(offsets)
        near = (distance < self.offset_upperbound).to(offsets)
        near[..., 0] = 1
        offset_weights = torch.zeros_like(offsets).scatter_(-1, order, near)
        right_weights = torch.ones_like(offsets)
        if self.cls_ignore_neighbor:
            right_weights[(offsets.abs() < 1) & (right == 0)] = 0
        return right, right_weights, offsets, offset_weights

    def decode(self, priors: Tensor, predictions: tuple[Tensor, Tensor],
               max_shape: ImageSize | None = None) -> tuple[Tensor, Tensor]:
        """Return boxes (..., 4) and bucket confidences (...) in [0, 1] from priors (..., 4), and bucket logits and offsets, each (..., 4,
        S).

        Boxes are clipped to the last pixel of ``max_shape`` (height, width) if given. The confidence is the score of the best bucket, plus
        the score of an adjacent bucket if that is the second best, averaged over the sides.
        """
        logits, offsets = predictions
        centers, width = self.buckets(priors)
        values, order = logits.softmax(-1).topk(2, -1)
        best = order[..., :1]
        sides = (centers.gather(-1, best) - offsets.gather(-1, best) * width).squeeze(-1)
        neighbours = (order[..., 0] - order[..., 1]).abs() == 1
        sure = (values[..., 0] + values[..., 1] * neighbours).mean(-1)
        boxes = sides[..., [0, 2, 1, 3]]
        return (clip_boxes(boxes, max_shape, inset=1) if self.clip_border and max_shape is not None else boxes), sure
