"""Compare detkit's overlaps, coders, priors, assigners, costs and losses with those of MMDetection 3.3.0 on random inputs.

Prints what differs, and per part how many results were compared. Where and how to run it: see compare_transforms.py.
"""
from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from compare_transforms import OpsFinder
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.registry import MODELS, TASK_UTILS
from detkit.tasks.matching import Candidates

Case = tuple[str, Any, Any]      # what is compared, detkit's result, MMDetection's
SIDE, CLASSES = 100., 5


def their_part(name: str, **options: Any) -> Any:
    from mmdet.registry import TASK_UTILS as THEIRS
    return THEIRS.build(dict(type=name, **options))


def our_part(name: str, **options: Any) -> Any:
    return TASK_UTILS.build(dict(type=name, **options))


def boxes_of(g: torch.Generator, *shape: int) -> Tensor:
    low = torch.rand(*shape, 2, generator=g) * SIDE
    return torch.cat([low, low + torch.rand(*shape, 2, generator=g) * SIDE / 2 + 1], -1)


def overlaps(g: torch.Generator) -> Iterator[Case]:
    for options in ({}, dict(dtype='fp16'), dict(dtype='fp16', scale=512.)):
        ours, theirs = our_part('BboxOverlaps2D', **options), their_part('BboxOverlaps2D', **options)
        for mode in ('iou', 'iof', 'giou'):
            for is_aligned in (False, True):
                for a_shape, b_shape in (((7,), (7,)), ((0,), (0,)), ((2, 5), (2, 5)), ((7,), (3,)), ((7,), (0,)), ((0,), (3,))):
                    if is_aligned and a_shape != b_shape:
                        continue
                    a, b = boxes_of(g, *a_shape), boxes_of(g, *b_shape)
                    yield (f'BboxOverlaps2D {options} {mode} is_aligned={is_aligned} {a_shape} {b_shape}', ours(a, b, mode, is_aligned),
                           theirs(a, b, mode, is_aligned))
        scored = torch.cat([boxes_of(g, 4), torch.rand(4, 1, generator=g)], -1)
        yield f'BboxOverlaps2D {options} with scores', ours(scored, scored), theirs(scored, scored)


def coders(g: torch.Generator) -> Iterator[Case]:
    variants = [('DeltaXYWHBBoxCoder', options) for options in (
        {}, dict(target_means=(.1, 0., .2, -.1), target_stds=(.1, .1, .2, .2)), dict(clip_border=False), dict(add_ctr_clamp=True),
        dict(add_ctr_clamp=True, ctr_clamp=4))] + [('DistancePointBBoxCoder', options) for options in ({}, dict(clip_border=False))]
    sizes = [(90, 70), (60, 80), (33, 21)]
    for name, options in variants:
        is_delta = name.startswith('Delta')
        ours, theirs = our_part(name, **options), their_part(name, **options)
        priors, boxes = boxes_of(g, 3, 6) if is_delta else torch.rand(3, 6, 2, generator=g) * SIDE, boxes_of(g, 6)
        values = torch.randn(3, 6, 4, generator=g) * (2 if is_delta else 40)
        yield f'{name} {options} encode', ours.encode(priors[0], boxes), theirs.encode(priors[0], boxes)
        if not is_delta:
            yield f'{name} {options} encode max_dis', ours.encode(priors[0], boxes, 16., .2), theirs.encode(priors[0], boxes, 16., .2)
        for size in (None, sizes[0], (*sizes[0], 3), torch.tensor(sizes[0])):
            yield (f'{name} {options} decode max_shape={size}', ours.decode(priors[0], values[0], size),
                   theirs.decode(priors[0], values[0], size))
        for size in (None, sizes[0], torch.tensor(sizes[0]), sizes, torch.tensor(sizes), [(*s, 3) for s in sizes]):
            yield (f'{name} {options} decode a batch, max_shape={size}', ours.decode(priors, values, size),
                   theirs.decode(priors, values, size))
    for options in (dict(num_buckets=14, scale_factor=1.7), dict(num_buckets=7, scale_factor=3., offset_topk=3, offset_upperbound=2.,
                                                                cls_ignore_neighbor=False, clip_border=False)):
        ours, theirs = our_part('BucketingBBoxCoder', **options), their_part('BucketingBBoxCoder', **options)
        priors = boxes_of(g, 8)
        boxes, count = priors + torch.randn(8, 4, generator=g) * 3, ours.side_num
        right, right_weights, offsets, offset_weights = (t.flatten(1) for t in ours.encode(priors, boxes))
        yield f'BucketingBBoxCoder {options} encode', (offsets, offset_weights, right, right_weights), theirs.encode(priors, boxes)
        logits, shifts = torch.randn(8, 4, count, generator=g), torch.randn(8, 4, count, generator=g)
        for size in (None, (90, 70), torch.tensor([90, 70])):
            yield (f'BucketingBBoxCoder {options} decode max_shape={size}', ours.decode(priors, (logits, shifts), size),
                   theirs.decode(priors, (logits.flatten(1), shifts.flatten(1)), size))


def priors(g: torch.Generator) -> Iterator[Case]:
    sizes, padded = [(7, 9), (4, 5), (2, 3)], (50, 61)
    levels = dict(strides=[8, 16, 32])
    for options in (dict(**levels, ratios=[.5, 1., 2.], scales=[8]),
                    dict(**levels, ratios=[.5, 2.], octave_base_scale=4, scales_per_octave=3),
                    dict(strides=[(8, 4), (16, 8), (32, 16)], ratios=[.7, 3.], scales=[2, 5], scale_major=False, base_sizes=[5, 9, 30],
                         center_offset=.5),
                    dict(**levels, ratios=[1.], scales=[3], centers=[(1., 2.), (3., 4.), (5., 6.)])):
        ours, theirs = our_part('AnchorGenerator', **options), their_part('AnchorGenerator', **options)
        yield f'AnchorGenerator {options}', ours(sizes), theirs.grid_priors(sizes, device='cpu')
        if options['strides'][0] == 8:
            yield f'AnchorGenerator {options} valid', ours.valid(sizes, padded), torch.cat(theirs.valid_flags(sizes, padded, device='cpu'))
    for options in (dict(strides=[8, 16, 32]), dict(strides=[8, 16, 32], offset=0), dict(strides=[(8, 4), (16, 8), (32, 16)], offset=.3)):
        ours, theirs = our_part('MlvlPointGenerator', **options), their_part('MlvlPointGenerator', **options)
        yield f'MlvlPointGenerator {options}', ours(sizes), theirs.grid_priors(sizes, device='cpu', with_stride=True)


def indices(result: Any) -> Tensor:
    """An assignment as detkit has it: -1 negative, -2 ignored, else the object."""
    found = result.gt_inds - 1
    return torch.where(result.gt_inds == -1, -2, found)


def assigners(g: torch.Generator) -> Iterator[Case]:
    generator = our_part('AnchorGenerator', strides=[8, 16, 32], ratios=[1.], scales=[4])
    points = torch.cat(our_part('MlvlPointGenerator', strides=[8, 16, 32], offset=0)([(12, 12), (6, 6), (3, 3)]))
    levels = [144, 36, 9]
    anchors = torch.cat(generator([(12, 12), (6, 6), (3, 3)]))
    for count in (0, 1, 4, 9):
        gt = InstanceData(bboxes=boxes_of(g, count), labels=torch.randint(0, CLASSES, (count,), generator=g))
        ignored = InstanceData(bboxes=boxes_of(g, 2))
        logits, decoded = torch.randn(189, CLASSES, generator=g), anchors + torch.randn(189, 4, generator=g) * 6
        thresholds = dict(pos_iou_thr=.5, neg_iou_thr=.4)
        for options in (dict(**thresholds), dict(pos_iou_thr=.5, neg_iou_thr=(.1, .4)), dict(**thresholds, min_pos_iou=.3),
                        dict(**thresholds, gt_max_assign_all=False), dict(**thresholds, match_low_quality=False),
                        dict(**thresholds, ignore_iof_thr=.5), dict(**thresholds, ignore_iof_thr=.2, ignore_wrt_candidates=False),
                        dict(**thresholds, gpu_assign_thr=2), dict(**thresholds, iou_calculator=dict(type='BboxOverlaps2D', dtype='fp16',
                                                                                                     scale=10.))):
            mine = our_part('MaxIoUAssigner', **options)(Candidates(anchors), gt, ignored)
            theirs = their_part('MaxIoUAssigner', **options).assign(InstanceData(priors=anchors), gt, ignored)
            yield f'MaxIoUAssigner {options} {count} objects', (mine.index, mine.overlap), (indices(theirs), theirs.max_overlaps)
        for options in (dict(topk=9), dict(topk=3), dict(topk=9, ignore_iof_thr=.3)):
            mine = our_part('ATSSAssigner', **options)(Candidates(anchors, levels), gt, ignored)
            theirs = their_part('ATSSAssigner', **options).assign(InstanceData(priors=anchors), levels, gt, ignored)
            yield f'ATSSAssigner {options} {count} objects', mine.index, indices(theirs)
        for options, more in ((dict(topk=13), dict(alpha=1, beta=6)), (dict(topk=4), dict(alpha=2, beta=3))):
            mine = our_part('TaskAlignedAssigner', **options, **more)(Candidates(anchors, levels, logits, decoded), gt)
            theirs = their_part('TaskAlignedAssigner', **options).assign(
                InstanceData(priors=anchors, scores=logits.sigmoid(), bboxes=decoded), gt, **more)
            yield f'TaskAlignedAssigner {options} {more} {count} objects', mine.index, indices(theirs)
        for name, scores, variants in (
                ('SimOTAAssigner', logits.sigmoid(), ({}, dict(center_radius=1.5, candidate_topk=4, iou_weight=1., cls_weight=2.))),
                ('DynamicSoftLabelAssigner', logits, ({}, dict(soft_center_radius=1., topk=5, iou_weight=1.)))):
            for options in variants:
                mine = our_part(name, **options)(Candidates(points, levels, logits, decoded), gt)
                theirs = their_part(name, **options).assign(InstanceData(priors=points, scores=scores, bboxes=decoded), gt)
                yield f'{name} {options} {count} objects', mine.index, indices(theirs)


def costs(g: torch.Generator) -> Iterator[Case]:
    logits, boxes, masks = torch.randn(9, CLASSES, generator=g), boxes_of(g, 9), torch.randn(9, 30, generator=g)
    gt = InstanceData(bboxes=boxes_of(g, 4), labels=torch.tensor([1, 0, 4, 1]), masks=(torch.rand(4, 30, generator=g) > .5).float())
    meta, size = dict(img_shape=(120, 160)), (120, 160)
    for name, options in (
            ('ClassificationCost', dict(weight=2.)), ('FocalLossCost', dict(alpha=.3, gamma=1.5, weight=3.)), ('FocalLossCost', dict(
                binary_input=True, weight=2.)), ('BBoxL1Cost', dict(weight=5.)), ('BBoxL1Cost', dict(box_format='xywh')), ('IoUCost', {}),
            ('IoUCost', dict(iou_mode='iou', weight=2.)), ('DiceCost', dict(pred_act=True)), ('DiceCost', dict(
                pred_act=True, naive_dice=False, eps=1., weight=3.)), ('CrossEntropyLossCost', dict(weight=2.))):
        mine = our_part(name, **options)(Candidates(None, None, logits, boxes, masks=masks, size=size), gt)
        theirs = their_part(name, **options)(InstanceData(scores=logits, bboxes=boxes, masks=masks), gt, meta)
        yield f'{name} {options}', mine, theirs


def losses(g: torch.Generator) -> Iterator[Case]:
    from mmdet.registry import MODELS as THEIRS
    boxes, target = boxes_of(g, 8), boxes_of(g, 8)
    logits, soft = torch.randn(8, CLASSES, generator=g), torch.rand(8, generator=g)
    labels = torch.randint(0, CLASSES + 1, (8,), generator=g)
    with_background = torch.randn(8, CLASSES + 1, generator=g)
    rows, bins = torch.rand(8, generator=g), torch.randn(8, 9, generator=g)
    on_boxes = [(name, options, boxes, target) for name, variants in (
        ('L1Loss', ({},)), ('MSELoss', ({},)), ('SmoothL1Loss', ({}, dict(beta=9.))), ('BalancedL1Loss', ({}, dict(
            alpha=.3, gamma=2., beta=5.))), ('IoULoss', ({}, dict(linear=True), dict(mode='square'), dict(eps=.5))),
        ('GIoULoss', ({}, dict(eps=1.))), ('DIoULoss', ({},)), ('CIoULoss', ({},)), ('BoundedIoULoss', ({}, dict(beta=.5))))
        for options in variants]
    on_classes = [('FocalLoss', {}, logits, labels), ('FocalLoss', dict(gamma=1.3, alpha=.7), logits, labels),
                  ('FocalLoss', dict(activated=True), logits.sigmoid(), labels), ('QualityFocalLoss', {}, logits, (labels, soft)),
                  ('QualityFocalLoss', dict(beta=1.5), logits, (labels, soft)), ('CrossEntropyLoss', {}, with_background, labels),
                  ('CrossEntropyLoss', dict(class_weight=[1., 2., .5, 1., 3., .1]), with_background, labels),
                  ('CrossEntropyLoss', dict(use_sigmoid=True), logits, labels), ('CrossEntropyLoss', dict(
                      use_sigmoid=True, class_weight=[1., 2., .5, 1., 3.]), logits, labels), ('CrossEntropyLoss', dict(
                          avg_non_ignore=True, ignore_index=2), with_background, labels), ('CrossEntropyLoss', dict(
                              use_sigmoid=True, avg_non_ignore=True, ignore_index=2), logits, labels),
                  ('DistributionFocalLoss', {}, bins, soft * 7.9)]
    masks = torch.rand(8, 12, generator=g).round()
    on_masks = [('DiceLoss', options, torch.randn(8, 12, generator=g), masks) for options in (
        dict(eps=1.), dict(naive_dice=True, eps=1.), dict(activate=False))]
    for name, options, pred, aim in on_boxes + on_classes + on_masks:
        for call in (dict(), dict(avg_factor=3.), dict(weight=rows), dict(weight=rows, avg_factor=3.), dict(
                weight=rows, reduction_override='none'), dict(reduction_override='sum')):
            if 'weight' in call and name in ('L1Loss', 'MSELoss', 'SmoothL1Loss', 'BalancedL1Loss', 'BoundedIoULoss'):
                call = dict(call, weight=rows[:, None].expand(-1, 4))
            both = []
            for registry, more in ((MODELS, {}), (THEIRS, {})):
                given = pred.clone().requires_grad_()
                loss = registry.build(dict(type=name, loss_weight=2., **options, **more))(given, aim, **call)
                loss.sum().backward()
                both.append((loss.detach().float(), given.grad))
            shown = {k: 'rows' if k == 'weight' else v for k, v in call.items()}
            yield f'{name} {options} {shown}', both[0], both[1]


def is_equal(a: Any, b: Any) -> str:
    """'' if equal to within float32's rounding, else what differs."""
    if isinstance(a, (tuple, list)):
        return next((text for x, y in zip(a, b) if (text := is_equal(x, y))), '' if len(a) == len(b) else f'{len(a)} / {len(b)} tensors')
    if a.shape != b.shape:
        return f'shapes {tuple(a.shape)} / {tuple(b.shape)}'
    if a.dtype != b.dtype and a.is_floating_point():
        return f'{a.dtype} / {b.dtype}'
    close = torch.isclose(a.double(), b.double(), rtol=1e-4, atol=1e-5)
    return '' if bool(close.all()) else f'{(a.double() - b.double()).abs().max():.3g} ({(~close).double().mean():.1%})'


def main() -> int:
    warnings.simplefilter('ignore')
    sys.meta_path.insert(0, OpsFinder())
    try:
        import mmdet.models.losses  # noqa: F401 - registers
        import mmdet.models.task_modules  # noqa: F401 - registers
    except ImportError as error:
        print(f'MMDetection cannot be imported ({error}). See the first lines of compare_transforms.py.')
        return 2
    compared: Counter = Counter()
    for seed in range(3):
        for part in (overlaps, coders, priors, assigners, costs, losses):
            g = torch.Generator().manual_seed(seed)
            for text, mine, theirs in part(g):
                different = is_equal(mine, theirs)
                compared[part.__name__] += 1
                if different:
                    compared[f'{part.__name__} that differ'] += 1
                    print(f'seed {seed} {text}: {different}')
    print(dict(compared))
    return 0


if __name__ == '__main__':
    sys.exit(main())
