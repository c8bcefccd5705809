"""Between a dense head's convolutions and its loss or its boxes.

Shapes: N images, L levels, A priors over all levels, A_l of one, K classes.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.losses.weighting import mean_over_processes
from detkit.models.settings import DensePostprocess, DenseTraining
from detkit.ops.boxes import larger_than
from detkit.ops.nms import batched_nms, padded_nms
from detkit.registry import ConfigError
from detkit.structures import DetDataSample
from detkit.structures.detections import Detections
from detkit.structures.random_streams import RandomStream
from detkit.structures.sample import generator_of
from detkit.tasks.matching import Candidates


@dataclass(frozen=True)
class DenseOutputs:
    """Raw predictions, per level, priors flattened: cell by cell and, within a cell, anchor by anchor."""

    cls: list[Tensor]              # L x (N, A_l, K) logits
    reg: list[Tensor]              # L x (N, A_l, 4) in the box coder's units
    sizes: list[tuple[int, int]]   # L x (height, width) of the feature map
    quality: list[Tensor] | None = None   # L x (N, A_l) logits of centerness, IoU, ...

    def float(self) -> 'DenseOutputs':
        """In float32, in which losses and boxes are computed whatever the network ran in."""
        def up(levels: list[Tensor] | None) -> list[Tensor] | None:
            return None if levels is None else [x.float() for x in levels]
        return replace(self, cls=up(self.cls), reg=up(self.reg), quality=up(self.quality))


@dataclass(frozen=True)
class DenseTargets:
    """What every prior should predict."""

    labels: Tensor         # (N, A) int64; num_classes is background
    label_weights: Tensor  # (N, A); 0: the prior is left out
    boxes: Tensor          # (N, A, 4) matched ground truth xyxy pixels, zeros where there is none
    matched: Tensor        # (N, A) int64: which of the image's objects a positive learns, 0 elsewhere
    positive: Tensor       # (N, A) bool
    quality: Tensor        # (N, A) in [0, 1], where the assigner gives one
    avg_factor: Tensor     # what the sampler says a loss is divided by, the mean over processes


def refuse_background_score(loss: torch.nn.Module, head: str) -> None:
    """Raise ConfigError for a softmax loss: dense heads predict one sigmoid score a class and none for background."""
    if getattr(loss, 'background_channel', False):
        raise ConfigError(f'{head} loss_cls is a softmax loss ({type(loss).__name__}); its scores are sigmoids. Set use_sigmoid=True.')


def flatten_level(x: Tensor, channels: int) -> Tensor:
    """(N, anchors * channels, H, W) -> (N, H * W * anchors, channels)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, channels)


def dense_targets(priors: Tensor, valid: list[Tensor], samples: list[DetDataSample], num_classes: int, assigner: Callable,
                  sampler: Callable, cfg: DenseTraining, logits: Tensor | None = None, boxes: Tensor | None = None,
                  class_agnostic: bool = False, approximations: Tensor | None = None, levels: list[int] | None = None) -> DenseTargets:
    """Assign each image's objects to the priors.

    Args:
        priors: (A, 4), the same for every image. valid: per image (A,) bool, False in the batch's padding.
        logits, boxes: (N, A, K), (N, A, 4): the predictions, for an assigner that looks at them.
        class_agnostic: every object has label 0 (proposals).
        levels: how many priors lie on each level, in order, for an assigner that asks.
        approximations: (A, m, 4) anchors that each prior stands for, for an assigner that compares those.
    """
    shape = len(samples), len(priors)
    t = DenseTargets(labels=priors.new_full(shape, num_classes, dtype=torch.long), label_weights=priors.new_zeros(shape),
                     boxes=priors.new_zeros(*shape, 4), matched=priors.new_zeros(shape, dtype=torch.long),
                     positive=priors.new_zeros(shape, dtype=torch.bool), quality=priors.new_zeros(shape), avg_factor=priors.new_zeros(()))
    avg_factor = 0
    for i, (sample, inside) in enumerate(zip(samples, valid)):
        index = within_border(priors, inside, sample.img_shape, cfg.allowed_border).nonzero().squeeze(1)
        gt = sample.gt_instances
        seen = dict(logits=logits[i, index].detach(), boxes=boxes[i, index].detach()) if assigner.looks_at_predictions else {}
        if approximations is not None:
            seen['approximations'] = approximations[index]
        if levels is not None:
            ends = torch.tensor(levels, device=index.device).cumsum(0)
            seen['levels'] = torch.searchsorted(ends, index, right=True).bincount(minlength=len(levels)).tolist()
        match = assigner(Candidates(priors[index], **seen), gt, sample.get('ignored_instances'))
        pos, neg = sampler(match, generator_of(sample, RandomStream.PRIOR_SAMPLING))
        matched = match.index[pos]
        if match.quality is not None:
            t.quality[i, index[pos]] = match.quality[pos]
        pos, neg = index[pos], index[neg]
        t.labels[i, pos] = 0 if class_agnostic else gt.labels[matched]
        t.label_weights[i, pos] = cfg.pos_weight if cfg.pos_weight > 0 else 1.
        t.label_weights[i, neg] = 1.
        t.boxes[i, pos], t.matched[i, pos] = gt.bboxes[matched], matched
        t.positive[i, pos] = True
        avg_factor += sampler.avg_factor(len(pos), len(neg))
    return replace(t, avg_factor=mean_over_processes(priors.new_tensor(float(avg_factor))))


def within_border(anchors: Tensor, valid: Tensor, img_shape: tuple[int, int], allowed_border: float) -> Tensor:
    """(A,) bool: ``valid``, and at most ``allowed_border`` pixels outside the image; -1: anywhere."""
    if allowed_border < 0:
        return valid
    limit = anchors.new_tensor([img_shape[1], img_shape[0]]) + allowed_border
    return valid & (anchors[:, :2] >= -allowed_border).all(1) & (anchors[:, 2:] < limit).all(1)


def detections(out: DenseOutputs, priors: list[Tensor], decode: Callable, cfg: DensePostprocess,
               samples: list[DetDataSample], group_by: str = 'class', masks_of: Callable | None = None) -> list[InstanceData]:
    """Per image: threshold and top-k on each level, decode, drop tiny boxes, NMS within class (or level).

    ``decode`` gives boxes, or boxes and (n,) factors of their scores: a coder that knows how sure it is. ``masks_of(images, index)``
    gives masks (k, n, h, w) of k images, a slice of the batch, from indices (k, n) into the priors of all levels.
    Returns per image ``bboxes`` (n, 4) in pixels of the network input, ``scores`` and ``labels`` (n,), best first, and such ``masks``.
    """
    results = []
    for i, sample in enumerate(samples):
        levels, start = [], 0
        for level, prior in enumerate(priors):
            scores = out.cls[level][i].detach().sigmoid()                      # (A_l, K)
            keep, labels, kept = top_candidates(scores, cfg.score_thr, cfg.nms_pre)
            if out.quality is not None:
                kept = kept * out.quality[level][i, keep].detach().sigmoid()
            groups = labels if group_by == 'class' else torch.full_like(labels, level)
            levels.append((prior[keep], out.reg[level][i, keep].detach(), kept, labels, groups, keep + start))
            start += len(prior)
        prior, reg, scores, labels, groups, index = (torch.cat(x) for x in zip(*levels))
        boxes = decode(prior, reg, max_shape=sample.img_shape[:2])
        if isinstance(boxes, tuple):
            boxes, scores = boxes[0], scores * boxes[1]
        if cfg.min_bbox_size >= 0:
            big = larger_than(boxes, cfg.min_bbox_size)
            boxes, scores, labels, groups, index = boxes[big], scores[big], labels[big], groups[big], index[big]
        keep, scores = batched_nms(boxes, scores, groups, cfg.nms)
        keep, scores = keep[:cfg.max_per_img], scores[:cfg.max_per_img]
        results.append(InstanceData(bboxes=boxes[keep], scores=scores, labels=labels[keep]))
        if masks_of is not None:
            results[-1].masks = masks_of(slice(i, i + 1), index[keep][None])[0]
    return results


def padded_detections(out: DenseOutputs, priors: list[Tensor], decode: Callable, cfg: DensePostprocess, sizes: Tensor,
                      group_by: str = 'class', masks_of: Callable | None = None) -> Detections:
    """``detections`` of a batch of images of ``sizes`` (N, 2) inside its padding, without a loop over images: exportable.

    Arguments as there; ``decode`` is given priors and predictions with the images in front, (N, n, 4) and (N, n, ...).
    """
    levels, start = [], 0
    for level, prior in enumerate(priors):
        scores = out.cls[level].sigmoid()                                      # (N, A_l, K)
        classes = scores.shape[2]
        scores = torch.where(scores > cfg.score_thr, scores, 0.).flatten(1)
        if cfg.nms_pre > 0:
            kept, pairs = scores.topk(torch.sym_min(cfg.nms_pre, scores.shape[1]), 1)
        else:
            kept, pairs = scores, torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
        at, labels = pairs // classes, pairs % classes
        if out.quality is not None:
            kept = kept * out.quality[level].sigmoid().gather(1, at)
        reg = out.reg[level]
        reg = reg.gather(1, at[..., None].expand(-1, -1, reg.shape[2]))
        groups = labels if group_by == 'class' else torch.full_like(labels, level)
        levels.append((prior[at], reg, kept, labels, groups, at + start))
        start = start + prior.shape[0]
    prior, reg, scores, labels, groups, index = (torch.cat(x, 1) for x in zip(*levels))
    boxes = decode(prior, reg, max_shape=sizes)
    if isinstance(boxes, tuple):
        boxes, scores = boxes[0], scores * boxes[1]
    if cfg.min_bbox_size >= 0:
        scores = scores * larger_than(boxes, cfg.min_bbox_size)
    keep, scores = padded_nms(boxes, scores, groups, cfg.nms, cfg.max_per_img)
    found = chosen_rows(boxes, labels, keep, scores)
    return found if masks_of is None else found._replace(masks=masks_of(slice(None), index.gather(1, keep)))


def chosen_rows(boxes: Tensor, labels: Tensor, keep: Tensor, scores: Tensor) -> Detections:
    """The rows ``keep`` (N, M) of boxes (N, A, 4) and labels (N, A); those with score 0 hold nothing."""
    found = scores > 0
    return Detections(boxes.gather(1, keep[..., None].expand(-1, -1, 4)) * found[..., None], scores,
                      labels.gather(1, keep).masked_fill(~found, -1))


def top_candidates(scores: Tensor, threshold: float, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """(A, K) -> prior index, class index and score of the best ``limit`` pairs above ``threshold``, best first."""
    num_classes = scores.shape[1]
    flat = scores.flatten()
    pairs = (flat > threshold).nonzero().squeeze(1) if threshold > 0 else torch.arange(len(flat), device=flat.device)
    values = flat[pairs]
    if 0 < limit < len(values):
        values, order = values.topk(limit)
    else:
        values, order = values.sort(descending=True)
    pairs = pairs[order]
    return pairs // num_classes, pairs % num_classes, values
