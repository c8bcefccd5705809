"""Non-maximum suppression: keep the best of overlapping boxes."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms as nms_kernel

from detkit.argument_values import annotations_of, value_fault
from detkit.ops.boxes import pairwise_iou
from detkit.registry import ConfigError, did_you_mean

SPLIT_ABOVE = 2000   # boxes; above it, one NMS per group is faster than one over all boxes, which is quadratic

SHARED_SETTINGS = {'class_agnostic': bool, 'split_thr': int}
SOFT_METHODS = ('linear', 'gaussian', 'naive')


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float = 0., max_num: int = -1) -> Tensor:
    """Greedy NMS over boxes (n, 4) with scores (n,). Return the indices of kept boxes, int64, best first."""
    if score_threshold > 0:
        above = (scores > score_threshold).nonzero().squeeze(1)
        keep = above[nms_kernel(boxes[above].float(), scores[above].float(), iou_threshold)]
    else:
        keep = nms_kernel(boxes.float(), scores.float(), iou_threshold)
    return keep[:max_num] if max_num > 0 else keep


def soft_nms(boxes: Tensor, scores: Tensor, iou_threshold: float = 0.3, sigma: float = 0.5, min_score: float = 1e-3,
             method: str = 'linear', max_num: int = -1) -> tuple[Tensor, Tensor]:
    """Soft-NMS (https://arxiv.org/abs/1704.03503): scores of overlapping boxes are reduced instead of dropping the boxes.

    ``method``: ``linear`` (score times 1 - IoU if the IoU exceeds ``iou_threshold``), ``gaussian`` (times exp(-IoU^2 / sigma)) or ``naive``
    (as NMS). Returns the indices of kept boxes, best first, and their reduced scores; boxes with a score below ``min_score`` are dropped.

    Raises:
        ConfigError: another ``method``.
    """
    if method not in SOFT_METHODS:
        raise ConfigError(f"soft_nms has no method '{method}'. Known: {', '.join(SOFT_METHODS)}.")
    scores = scores.float().clone()
    left = torch.arange(len(boxes), device=boxes.device)
    kept, kept_scores = [], []
    while len(left) and (max_num <= 0 or len(kept) < max_num):
        best = scores[left].argmax()
        index = left[best]
        if scores[index] < min_score:
            break
        kept.append(index)
        kept_scores.append(scores[index])
        left = torch.cat([left[:best], left[best + 1:]])
        iou = pairwise_iou(boxes[index][None].float(), boxes[left].float())[0]
        if method == 'gaussian':
            factor = torch.exp(-iou**2 / sigma)
        elif method == 'linear':
            factor = torch.where(iou > iou_threshold, 1 - iou, 1.)
        else:
            factor = (iou <= iou_threshold).float()
        scores[left] *= factor
        left = left[scores[left] >= min_score]
    if not kept:
        return left[:0], scores[:0]
    return torch.stack(kept), torch.stack(kept_scores)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, cfg: dict | None) -> tuple[Tensor, Tensor]:
    """NMS within groups (classes or pyramid levels), with a config such as ``nms=dict(type='nms', iou_threshold=0.5)``.

    Args:
        boxes: (n, 4).
        scores: (n,).
        groups: (n,) int64; boxes suppress each other only within a group.
        cfg: ``type`` ('nms' or 'soft_nms'), its settings, and ``class_agnostic``; None keeps all boxes.

    Returns:
        indices of kept boxes, int64, best first, and their scores.

    Raises:
        ConfigError: unknown ``type`` or setting.
    """
    if cfg is None:
        scores, order = scores.sort(descending=True)
        return order, scores
    kind, options = checked(cfg)
    if len(boxes) == 0:
        return groups.new_zeros(0), scores
    if cfg.get('class_agnostic', False):
        groups = torch.zeros_like(groups)
    max_num = options.pop('max_num', -1)
    if len(boxes) <= min(SPLIT_ABOVE, cfg.get('split_thr', SPLIT_ABOVE)):
        boxes = boxes.float()
        extent = boxes.max() - boxes.min().clamp(max=0) + 1
        apart = boxes + (groups * extent)[:, None]   # boxes of different groups do not overlap
        keep, scores = run(kind, apart, scores, options)
    else:
        parts = [(index, *run(kind, boxes[index], scores[index], options))
                 for index in ((groups == g).nonzero().squeeze(1) for g in groups.unique())]
        keep = torch.cat([index[kept] for index, kept, _ in parts])
        scores, order = torch.cat([s for _, _, s in parts]).sort(descending=True, stable=True)
        keep = keep[order]
    return (keep[:max_num], scores[:max_num]) if max_num > 0 else (keep, scores)


class NotExportable(ConfigError):
    """A setting that works in training and testing but not in ``torch.export``."""


def padded_nms(boxes: Tensor, scores: Tensor, groups: Tensor, cfg: dict | None, max_num: int) -> tuple[Tensor, Tensor]:
    """``batched_nms`` for all images of a batch at once, in tensors of fixed shape, so that it can be exported.

    Args:
        boxes: (N, A, 4).
        scores: (N, A); rows with a score of 0 or less are dropped.
        groups: (N, A) int64, 0 or more.
        cfg: as for ``batched_nms``.
        max_num: max rows per image.

    Returns:
        indices (N, max_num) int64 into A, best first, and their scores; rows that are not filled have index 0 and score 0.

    Raises:
        NotExportable: ``soft_nms``, because each of its steps depends on the previous one.
        ConfigError: an unknown type or setting.
    """
    kind, options = ('nms', None) if cfg is None else checked(cfg)
    if kind != 'nms':
        raise NotExportable(f"nms type '{kind}' cannot be exported. Use dict(type='nms', iou_threshold=...).", cfg, ('type',))
    least = 0. if options is None else options.get('score_threshold', 0.)
    image, row = (scores > max(least, 0.)).nonzero(as_tuple=True)
    values = scores[image, row]
    if options is None:
        order = values.argsort(descending=True)
    else:
        # shift groups in x and images in y: coordinates stay small, and therefore exact
        near, group = boxes[image, row].float(), groups[image, row]
        if cfg.get('class_agnostic', False):
            group = torch.zeros_like(group)
        extent = 2 * torch.cat([near.flatten().abs(), near.new_zeros(1)]).amax(0) + 1
        apart = near + (torch.stack([group, image], 1) * extent).repeat(1, 2)
        order = nms_kernel(apart, values.float(), options['iou_threshold'])
    return padded_rows(image[order], row[order], values[order], scores.shape[0], max_num if max_num > 0 else scores.shape[1])


def padded_rows(image: Tensor, row: Tensor, values: Tensor, count: int, width: int) -> tuple[Tensor, Tensor]:
    """Distribute ``row`` and ``values`` (n,), best first, to the ``count`` images given by ``image`` (n,): each (count, width), padded with
    zeros."""
    theirs = image[:, None] == torch.arange(count, device=image.device)
    rank = theirs.long().cumsum(0).gather(1, image[:, None]).squeeze(1) - 1
    slot = image * (width + 1) + rank.clamp(max=width)             # rows beyond width go to an extra column that is cut off

    def spread(x: Tensor) -> Tensor:
        return x.new_zeros(count * (width + 1)).scatter(0, slot, x).unflatten(0, (count, width + 1))[:, :width]
    return spread(row), spread(values)


def run(kind: str, boxes: Tensor, scores: Tensor, options: dict) -> tuple[Tensor, Tensor]:
    if kind == 'soft_nms':
        return soft_nms(boxes, scores, **options)
    keep = nms(boxes, scores, **options)
    return keep, scores[keep]


def checked(cfg: dict) -> tuple[str, dict]:
    """Return the type and its settings; MMDetection 2's ``iou_thr`` is renamed to ``iou_threshold``.

    Raises:
        ConfigError: an unknown ``type``, setting or ``method``, a value of a wrong type or out of range, or a missing threshold that has no
            default.
    """
    kind = cfg.get('type', 'nms')
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"nms type {kind!r} is unknown.{did_you_mean(kind, KINDS)} Known: {', '.join(KINDS)}.", cfg, ('type',))
    own, options = settings_of(KINDS[kind]), {}
    for name, value in cfg.items():
        key = 'iou_threshold' if name == 'iou_thr' else name
        if key not in own | SHARED_SETTINGS | {'type': str}:
            raise ConfigError(f"nms type '{kind}' has no '{name}'.{did_you_mean(name, own | SHARED_SETTINGS)}", cfg, (str(name),))
        fault = value_fault(value, (own | SHARED_SETTINGS).get(key, str), key)
        if fault:
            raise ConfigError(str(fault), cfg, (name, *fault.keys))
        if key in own:
            options[key] = value
    if kind == 'nms' and 'iou_threshold' not in options:
        raise ConfigError("nms type 'nms' needs 'iou_threshold'.", cfg)
    if options.get('method', 'linear') not in SOFT_METHODS:
        raise ConfigError(f"soft_nms has no method '{options['method']}'. Known: {', '.join(SOFT_METHODS)}.", cfg, ('method',))
    return kind, options


KINDS = {'nms': nms, 'soft_nms': soft_nms}


def settings_of(function: Any) -> dict[str, Any]:
    """Return the settings of ``nms`` or ``soft_nms`` with their types."""
    return {k: v for k, v in annotations_of(function).items() if k not in ('boxes', 'scores', 'return')}
