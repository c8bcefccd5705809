"""The outputs of dense heads, their training targets, and the selection of detections.

Shapes: N images, L levels, A priors over all levels, A_l priors of one level, K classes.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.losses.weighting import mean_over_processes
from detkit.models.settings import DensePostprocess, DenseTraining
from detkit.models.targets import AssignedBy
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
    """Raw predictions per level. Priors are flattened cell by cell and, within a cell, anchor by anchor."""

    cls: list[Tensor]              # L x (N, A_l, K) logits
    reg: list[Tensor]              # L x (N, A_l, 4) as the box coder encodes them
    sizes: list[tuple[int, int]]   # L x (height, width) of the feature map
    quality: list[Tensor] | None = None   # L x (N, A_l) logits of centerness, IoU, ...

    @property
    def device(self) -> torch.device:
        return self.cls[0].device

    def float(self) -> Self:
        """Convert to float32: losses and boxes are computed in float32 also when the network runs in lower precision."""
        return self.map(Tensor.float)

    def image(self, i: int) -> Self:
        """Return the outputs of image ``i`` as a batch of one, detached."""
        return self.map(lambda x: x[i:i + 1].detach())

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply ``function`` to every tensor, including the fields that a subclass adds."""
        def changed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            return [changed(x) for x in value] if isinstance(value, list) else value
        return replace(self, **{f.name: changed(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class PriorSet:
    """The priors of a batch, all levels concatenated."""

    priors: Tensor         # (A, 4), the same for all images, or (N, A, 4)
    levels: list[int]      # number of priors on each level, in order
    valid: Tensor          # (N, A) bool; False in the batch's padding
    approximations: Tensor | None = None   # (A, m, 4) or (N, A, m, 4) anchors that represent each prior in assignment (SABL)

    def of_image(self, i: int) -> Tensor:
        """Return the priors of image ``i``, (A, 4)."""
        return self.priors if self.priors.dim() == 2 else self.priors[i]

    def candidates(self, i: int, index: Tensor, **predictions: Tensor) -> Candidates:
        """Return the priors ``index`` (n,), ascending, of image ``i`` as input for the assigner."""
        ends = torch.searchsorted(index, torch.tensor(self.levels, device=index.device).cumsum(0)).tolist()
        around = self.approximations if self.approximations is None or self.priors.dim() == 2 else self.approximations[i]
        return Candidates(self.of_image(i)[index], levels=[b - a for a, b in zip([0, *ends], ends)],
                          approximations=None if around is None else around[index], **predictions)


@dataclass(frozen=True)
class DenseTargets:
    """Training targets of every prior."""

    labels: Tensor         # (N, A) int64; num_classes is background
    label_weights: Tensor  # (N, A); 0: the prior is ignored
    boxes: Tensor          # (N, A, 4) matched ground truth, xyxy pixels; zeros for other priors
    matched: Tensor        # (N, A) int64: index of the object matched to a positive; 0 elsewhere
    positive: Tensor       # (N, A) bool
    quality: Tensor        # (N, A) in [0, 1], if the assigner computes one; else zeros
    avg_factor: Tensor     # the sampler's divisor of the loss, averaged over processes
    priors: Tensor         # (N, A, 4)
    assigned: list[Tensor]   # N x (n,) int64: the assigner's result for its input priors, before sampling
    assigned_by: AssignedBy

    @property
    def matched_objects(self) -> list[Tensor]:
        return [index[index >= 0].unique() for index in self.assigned]


@dataclass(frozen=True)
class DenseScores:
    """The scores that select detections, per level, combined as in the head's paper."""

    values: list[Tensor]                  # L x (N, A_l, K): for threshold and top-k; a class with score 0 is no candidate
    factors: list[Tensor] | None = None   # L x (N, A_l): multiplied with the scores after the selection


class Selection(NamedTuple):
    """The best n (prior, class) pairs of each image, over all levels."""

    boxes: Tensor     # (N, n, 4) xyxy pixels of the network input
    scores: Tensor    # (N, n); 0: the row is empty
    labels: Tensor    # (N, n) int64
    groups: Tensor    # (N, n) int64: NMS runs within each group
    index: Tensor     # (N, n) int64: index of the prior, over all levels


def refuse_background_score(loss: torch.nn.Module, head: str) -> None:
    """Raise ConfigError for a softmax loss; for heads with one sigmoid score per class and no background class."""
    if getattr(loss, 'background_channel', False):
        raise ConfigError(f'{head} loss_cls is a softmax loss ({type(loss).__name__}); its scores are sigmoids. Set use_sigmoid=True.')


def flatten_level(x: Tensor, channels: int) -> Tensor:
    """Reshape (N, anchors * channels, H, W) to (N, H * W * anchors, channels)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, channels)


def prior_set(generator: Callable, out: DenseOutputs, samples: list[DetDataSample], approximations: Tensor | None = None) -> PriorSet:
    """Return the priors that ``generator`` places on the feature maps of ``out``; they are the same for every image."""
    levels = generator(out.sizes, out.device)
    valid = torch.stack([generator.valid(out.sizes, s.pad_shape, out.device) for s in samples])
    return PriorSet(torch.cat(levels), list(map(len, levels)), valid, approximations)


def priors_and_ranges(generator: Callable, regress_ranges: Sequence[tuple[float, float]], out: DenseOutputs) -> tuple[Tensor, Tensor]:
    """Return the priors (A, 4) of all levels, and for each prior the (min, max) of its level's regression range (A, 2), in pixels."""
    levels = generator(out.sizes, out.device)
    ranges = [priors.new_tensor(limits).expand(len(priors), 2) for priors, limits in zip(levels, regress_ranges)]
    return torch.cat(levels), torch.cat(ranges)


def dense_targets(priors: PriorSet, samples: list[DetDataSample], num_classes: int, assigner: Callable, sampler: Callable,
                  cfg: DenseTraining, logits: Tensor | None = None, boxes: Tensor | None = None) -> DenseTargets:
    """Assign each image's objects to the priors and return the training targets.

    ``logits`` (N, A, K) and ``boxes`` (N, A, 4): the predictions, for assigners that use them.
    """
    shape, new = priors.valid.shape, priors.priors
    t = DenseTargets(labels=new.new_full(shape, num_classes, dtype=torch.long), label_weights=new.new_zeros(shape),
                     boxes=new.new_zeros(*shape, 4), matched=new.new_zeros(shape, dtype=torch.long),
                     positive=new.new_zeros(shape, dtype=torch.bool), quality=new.new_zeros(shape), avg_factor=new.new_zeros(()),
                     priors=new.expand(*shape, 4), assigned=[],
                     assigned_by='predictions' if assigner.looks_at_predictions else 'geometry')
    avg_factor = 0
    for i, sample in enumerate(samples):
        index = within_border(priors.of_image(i), priors.valid[i], sample.img_shape, cfg.allowed_border).nonzero().squeeze(1)
        gt = sample.gt_instances
        seen = dict(logits=logits[i, index].detach(), boxes=boxes[i, index].detach()) if assigner.looks_at_predictions else {}
        match = assigner(priors.candidates(i, index, **seen), gt, sample.get('ignored_instances'))
        t.assigned.append(match.index)
        pos, neg = sampler(match, generator_of(sample, RandomStream.PRIOR_SAMPLING))
        matched = match.index[pos]
        if match.quality is not None:
            t.quality[i, index[pos]] = match.quality[pos]
        pos, neg = index[pos], index[neg]
        t.labels[i, pos] = gt.labels[matched]
        t.label_weights[i, pos] = cfg.pos_weight if cfg.pos_weight > 0 else 1.
        t.label_weights[i, neg] = 1.
        t.boxes[i, pos], t.matched[i, pos] = gt.bboxes[matched], matched
        t.positive[i, pos] = True
        avg_factor += sampler.avg_factor(len(pos), len(neg))
    return replace(t, avg_factor=mean_over_processes(new.new_tensor(float(avg_factor))))


def within_border(anchors: Tensor, valid: Tensor, img_shape: tuple[int, int], allowed_border: float) -> Tensor:
    """Return a mask (A,) bool: ``valid`` anchors that extend at most ``allowed_border`` pixels outside the image; -1: no limit."""
    if allowed_border < 0:
        return valid
    limit = anchors.new_tensor([img_shape[1], img_shape[0]]) + allowed_border
    return valid & (anchors[:, :2] >= -allowed_border).all(1) & (anchors[:, 2:] < limit).all(1)


def sigmoid_scores(out: DenseOutputs) -> DenseScores:
    """Return one sigmoid score per class; if the head predicts a quality, its sigmoid is a factor of the selected scores."""
    return DenseScores([x.sigmoid() for x in out.cls], out.quality and [x.sigmoid() for x in out.quality])


def detections(out: DenseOutputs, scores: Callable[[DenseOutputs], DenseScores], priors: list[Tensor], decode: Callable,
               cfg: DensePostprocess, samples: list[DetDataSample], group_by: str = 'class',
               masks_of: Callable | None = None) -> list[InstanceData]:
    """Return the detections of each image: threshold and top-k on each level, decoding, min box size, NMS per class (or per level).

    Args:
        scores: is called with the outputs of one image at a time.
        priors: L x (A_l, c), the same for all images, or (N, A_l, c).
        decode: (N, n, c) priors, (N, n, ...) predictions and ``max_shape`` -> boxes (N, n, 4), or boxes and factors (N, n) of their scores,
            for coders that estimate a confidence.
        group_by: NMS groups: 'class' or 'level'.
        masks_of: returns masks (k, n, h, w) for a slice of k images of the batch and indices (k, n) into the priors of all levels.

    Returns for each image ``bboxes`` (n, 4) in pixels of the network input, ``scores`` and ``labels`` (n,), best first, and the ``masks``
    of ``masks_of``.
    """
    results = []
    for i, sample in enumerate(samples):
        own = [p if p.dim() == 2 else p[i:i + 1].detach() for p in priors]
        found = select_candidates(out.image(i), scores, own, decode, cfg, sample.img_shape[:2], group_by, best_pairs)
        kept = found.scores[0] > 0
        boxes, values, labels, groups, index = (x[0][kept] for x in found)
        keep, values = batched_nms(boxes, values, groups, cfg.nms)
        keep, values = keep[:cfg.max_per_img], values[:cfg.max_per_img]
        results.append(InstanceData(bboxes=boxes[keep], scores=values, labels=labels[keep]))
        if masks_of is not None:
            results[-1].masks = masks_of(slice(i, i + 1), index[keep][None])[0]
    return results


def padded_detections(out: DenseOutputs, scores: Callable[[DenseOutputs], DenseScores], priors: list[Tensor], decode: Callable,
                      cfg: DensePostprocess, sizes: Tensor, group_by: str = 'class', masks_of: Callable | None = None) -> Detections:
    """Return ``detections`` of a batch of images of ``sizes`` (N, 2), which are padded to one size. It has no loop over images, so that it
    can be exported."""
    boxes, values, labels, groups, index = select_candidates(out, scores, priors, decode, cfg, sizes, group_by, best_pairs_padded)
    keep, values = padded_nms(boxes, values, groups, cfg.nms, cfg.max_per_img)
    found = chosen_rows(boxes, labels, keep, values)
    return found if masks_of is None else found._replace(masks=masks_of(slice(None), index.gather(1, keep)))


def select_candidates(out: DenseOutputs, scores: Callable, priors: list[Tensor], decode: Callable, cfg: DensePostprocess,
                      sizes: tuple[int, int] | Tensor, group_by: str, best: Callable) -> Selection:
    """Return the ``best`` (prior, class) pairs of each level, decoded; pairs whose box is too small have score 0.

    ``sizes``: height and width of all images, or (N, 2).
    """
    scored, levels, start = scores(out), [], 0
    for level, (values, reg, prior) in enumerate(zip(scored.values, out.reg, priors)):
        classes = values.shape[2]
        kept, pairs = best(values.flatten(1), cfg.score_thr, cfg.nms_pre)
        at, labels = pairs // classes, pairs % classes
        if scored.factors is not None:
            kept = kept * scored.factors[level].gather(1, at)
        groups = labels if group_by == 'class' else torch.full_like(labels, level)
        levels.append((rows_at(prior, at), rows_at(reg, at), kept, labels, groups, at + start))
        start = start + prior.shape[-2]
    prior, reg, kept, labels, groups, index = (torch.cat(x, 1) for x in zip(*levels))
    boxes = decode(prior, reg, max_shape=sizes)
    if isinstance(boxes, tuple):
        boxes, kept = boxes[0], kept * boxes[1]
    if cfg.min_bbox_size >= 0:
        kept = kept * larger_than(boxes, cfg.min_bbox_size)
    return Selection(boxes, kept, labels, groups, index)


def best_pairs(scores: Tensor, threshold: float, limit: int) -> tuple[Tensor, Tensor]:
    """Return the best ``limit`` scores above ``threshold`` (1, n), best first, and their indices (1, n), from the scores (1, P) of one
    image."""
    flat = scores[0]
    pairs = (flat > threshold).nonzero().squeeze(1) if threshold > 0 else torch.arange(len(flat), device=flat.device)
    values = flat[pairs]
    if 0 < limit < len(values):
        values, order = values.topk(limit)
    else:
        values, order = values.sort(descending=True)
    return values[None], pairs[order][None]


def best_pairs_padded(scores: Tensor, threshold: float, limit: int) -> tuple[Tensor, Tensor]:
    """Return ``best_pairs`` of a batch (N, P) as tensors (N, n) of fixed shape: scores at or below ``threshold`` become 0."""
    scores = torch.where(scores > threshold, scores, 0.)
    if limit > 0:
        return scores.topk(torch.sym_min(limit, scores.shape[1]), 1)
    return scores, torch.arange(scores.shape[1], device=scores.device).expand_as(scores)


def rows_at(values: Tensor, at: Tensor) -> Tensor:
    """Return the rows ``at`` (N, n) of values (A, c), the same for all images, or (N, A, c): (N, n, c)."""
    return values[at] if values.dim() == 2 else values.gather(1, at[..., None].expand(-1, -1, values.shape[2]))


def chosen_rows(boxes: Tensor, labels: Tensor, keep: Tensor, scores: Tensor) -> Detections:
    """Return the rows ``keep`` (N, M) of boxes (N, A, 4) and labels (N, A); rows with score 0 are empty."""
    found = scores > 0
    return Detections(boxes.gather(1, keep[..., None].expand(-1, -1, 4)) * found[..., None], scores,
                      labels.gather(1, keep).masked_fill(~found, -1))
