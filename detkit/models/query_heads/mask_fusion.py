"""Convert mask queries to instances and to a panoptic map (MaskFormer, https://arxiv.org/abs/2107.06278, Sec. 3.4)."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.models.settings import settings
from detkit.ops.masks import Size, encode_masks, resized
from detkit.registry import MODELS, ConfigError
from detkit.structures.detections import Detections
from detkit.structures.panoptic import INSTANCE_OFFSET
from detkit.structures.rle_masks import RLEMasks

NOWHERE = -100.     # logit of cells outside the image
Steps = list[tuple[Size, Size]]    # sizes for resizing masks; see detkit.ops.masks.resized


@dataclass(frozen=True)
class MaskPostprocess:
    panoptic_on: bool = True        # predict a panoptic map
    instance_on: bool = False       # predict instances
    semantic_on: bool = False
    max_per_image: int = 100        # max instances, from all (query, class) pairs
    object_mask_thr: float = 0.8    # in [0, 1]; queries with at most this score are left out of the panoptic map
    iou_thr: float = 0.8            # a segment is dropped if less than this fraction of its mask remains visible
    filter_low_score: bool = False  # pixels of a segment with a mask score below 0.5 become void

    def __post_init__(self) -> None:
        if self.semantic_on:
            raise ConfigError('model.test_cfg semantic_on=True is not supported, nor is it by MMDetection. The panoptic map holds labels.')
        if not (self.panoptic_on or self.instance_on):
            raise ConfigError('model.test_cfg turns both panoptic_on and instance_on off: nothing is left to predict.')


@MODELS.register_module()
class MaskFormerFusionHead(BaseModule):
    """Post-processing of MaskFormer and Mask2Former from the last layer's queries; it has no weights. Labels below ``num_things_classes``
    are things."""

    def __init__(self, num_things_classes: int = 80, num_stuff_classes: int = 53, test_cfg: dict | None = None,
                 loss_panoptic: Any = None, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if loss_panoptic is not None:
            raise ConfigError('MaskFormerFusionHead learns nothing; loss_panoptic must be None.')
        self.num_things_classes, self.num_classes = num_things_classes, num_things_classes + num_stuff_classes
        self.test_cfg = settings(MaskPostprocess, test_cfg or {}, 'model.test_cfg')

    def panoptic(self, logits: Tensor, masks: Tensor, steps: Steps) -> Tensor:
        """Return the panoptic map int32 (H, W): label + INSTANCE_OFFSET * n, with n from 1 for things, 0 for stuff; K is void.

        ``logits`` (Q, K + 1), ``masks`` logits (Q, h, w). Each pixel is assigned to the query with the largest product of score and mask
        score. Masks are resized a few at a time, and only the best query so far is kept for each pixel.
        """
        cfg, (scores, labels) = self.test_cfg, logits.softmax(-1).max(-1)
        kept = (labels != self.num_classes) & (scores > cfg.object_mask_thr)
        scores, labels, masks = scores[kept], labels[kept], masks[kept]
        size = steps[-1][1]
        best, owner = masks.new_full(size, -1.), torch.zeros(size, dtype=torch.int32, device=masks.device)
        sure, areas = torch.zeros(size, dtype=torch.bool, device=masks.device), []
        for k, mask in enumerate(m for part in (resized(masks, steps) if len(masks) else ()) for m in part):
            mask = mask.sigmoid()
            inside, value = mask >= 0.5, mask * scores[k]
            better = value > best
            areas.append(inside.sum())
            best = torch.maximum(best, value)
            owner.masked_fill_(better, k)
            sure = torch.where(better, inside, sure)
        if not areas:
            return torch.full(size, self.num_classes, dtype=torch.int32, device=masks.device)
        area, left = torch.stack(areas), torch.bincount(owner.flatten(), minlength=len(masks))
        found = (left > 0) & (area > 0) & (left >= cfg.iou_thr * area)
        thing = found & (labels < self.num_things_classes)
        ids = torch.where(found, labels + INSTANCE_OFFSET * thing.cumsum(0) * thing, self.num_classes)
        seg = ids.int()[owner]
        return seg.masked_fill_(~sure, self.num_classes) if cfg.filter_low_score else seg

    def instances(self, logits: Tensor, masks: Tensor, steps: Steps) -> InstanceData:
        """Return ``bboxes``, ``scores``, ``labels`` and ``masks`` (RLEMasks), best first, in pixels of the size after the last step.

        ``logits`` (Q, K + 1), ``masks`` logits (Q, h, w). A score is the class score times the mean mask score inside the mask; a box is
        the tightest box around the mask.
        """
        scores, labels, query = self.best(logits)
        used, row = query.unique(return_inverse=True)
        quality, codes = [], []
        for part in resized(masks[used], steps) if len(used) else ():
            inside = part > 0
            quality.append(mean_score(part, inside))
            codes += encode_masks(inside)
        size = steps[-1][1]
        scores = scores * torch.cat(quality)[row] if quality else scores
        order = scores.argsort(descending=True, stable=True)
        found = RLEMasks(codes, *size)[row[order]]
        return InstanceData(bboxes=torch.from_numpy(found.get_bboxes()).to(scores.device), scores=scores[order], labels=labels[order],
                            masks=found)

    def best(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, labels and queries of the ``max_per_image`` best pairs whose class is a thing."""
        scores, pair = logits.softmax(-1)[:, :-1].flatten().topk(min(self.test_cfg.max_per_image, logits[:, :-1].numel()))
        query, labels = pair // self.num_classes, pair % self.num_classes
        thing = labels < self.num_things_classes
        return scores[thing], labels[thing], query[thing]

    def coarse(self, logits: Tensor, masks: Tensor, stride: int, sizes: Tensor) -> Detections:
        """Return the same as ``instances`` for a batch, without resizing the masks; can be exported.

        ``logits`` (N, Q, K + 1), ``masks`` logits (N, Q, h, w). Boxes are in pixels of the input, clipped to images of ``sizes`` (N, 2);
        masks are scores at ``stride``, 0 in the padding.
        """
        count = min(self.test_cfg.max_per_image, logits.shape[1] * self.num_classes)
        scores, pair = logits.softmax(-1)[..., :-1].flatten(1).topk(count)
        query, labels = pair // self.num_classes, pair % self.num_classes
        chosen = masks.gather(1, query[..., None, None].expand(-1, -1, *masks.shape[2:]))
        rows, columns = (torch.arange(cells, device=sizes.device) * stride < sizes[:, k, None] for k, cells in enumerate(masks.shape[2:]))
        rows, columns = rows[:, None, :, None], columns[:, None, None]                # inside the image
        scores = scores * mean_score(chosen, (chosen > 0) & rows & columns) * (labels < self.num_things_classes)
        scores, order = scores.topk(count)
        found, wide = scores > 0, order[..., None, None].expand(-1, -1, *masks.shape[2:])
        chosen, labels = chosen.gather(1, wide), labels.gather(1, order)
        x1, x2 = extent(chosen.masked_fill(~rows, NOWHERE).amax(2), stride, sizes[:, 1])
        y1, y2 = extent(chosen.masked_fill(~columns, NOWHERE).amax(3), stride, sizes[:, 0])
        boxes = torch.stack([x1, y1, x2, y2], -1).to(scores.dtype) * found[..., None]
        return Detections(boxes, scores, torch.where(found, labels, -1), chosen.sigmoid() * (found[..., None, None] & rows & columns))


def mean_score(masks: Tensor, inside: Tensor) -> Tensor:
    """Return the mean mask score inside the mask; logits (..., H, W) -> (...)."""
    inside = inside.to(masks.dtype)
    return (masks.sigmoid() * inside).sum((-2, -1)) / (inside.sum((-2, -1)) + 1e-6)


def extent(profile: Tensor, stride: int, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the start and end of masks along one axis, in pixels.

    ``profile`` (N, M, cells): maximum logits over the other axis; it is upsampled by ``stride`` and cropped to ``lengths`` (N,).
    """
    on = F.interpolate(profile, scale_factor=float(stride), mode='linear', align_corners=False) > 0
    place = torch.arange(on.shape[-1], device=on.device)
    on = on & (place < lengths[:, None, None])
    return torch.where(on, place, on.shape[-1]).amin(-1), torch.where(on, place + 1, 0).amax(-1)
