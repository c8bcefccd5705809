"""Compare detkit's transforms with those of MMDetection 3.3.0 on random inputs.

Both get the same input, and MMDetection gets the random numbers that detkit drew. Prints one line per transform and arguments with the
largest difference of pixels, boxes, masks and segmentation maps; the last line counts the differences. Run it where both are installed:

    pip install --no-deps mmdet==3.3.0 mmcv-lite==2.1.0 shapely terminaltables
    PYTHONPATH=. python tests/parity/compare_transforms.py [NAME ...]

mmcv-lite has no compiled operators; transforms need none but RoIAlign, and an empty ``mmcv.ops`` stands in for them.
"""
from __future__ import annotations

import copy
import importlib.abc
import importlib.machinery
import itertools
import logging
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch

import detkit.structures as ours
from detkit.registry import TRANSFORMS

DRAWS = ('rand', 'random', 'random_sample', 'uniform', 'randint', 'choice', 'permutation')
SIZES = ((48, 64), (65, 43), (33, 33))


class EmptyOps(types.ModuleType):
    """A module in which every name is a class of torch modules."""

    def __getattr__(self, name: str) -> type:
        if name.startswith('__'):
            raise AttributeError(name)
        return type(name, (torch.nn.Module,), {})


class OpsFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``mmcv.ops`` and everything below it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if (name + '.').startswith('mmcv.ops.') else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return EmptyOps(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__path__ = []


class RecordingRng:
    """A numpy generator that writes down what was asked for, with which arguments, and what it answered."""

    def __init__(self, seed: int) -> None:
        self.generator, self.log = np.random.default_rng(seed), []

    def __getattr__(self, name: str) -> Callable:
        def draw(*args: Any, **options: Any) -> Any:
            value = getattr(self.generator, name)(*args, **options)
            self.log.append((name, args, value))
            return value
        return draw


@contextmanager
def replayed(values: list) -> Any:
    """Let every function of ``numpy.random`` and ``random`` return the next of ``values``."""
    left = list(values)

    def draw(*args: Any, **options: Any) -> Any:
        return left.pop(0)
    import random
    patches = [mock.patch.object(np.random, name, draw) for name in DRAWS] + \
        [mock.patch.object(random, name, draw) for name in ('uniform', 'randint', 'random', 'choice')]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()
    if left:
        raise RuntimeError(f'{len(left)} draws of detkit were not used')


def make_input(seed: int, size: tuple[int, int], dtype: type = np.uint8, masks: str | None = None, seg: bool = False,
               count: int = 4) -> dict[str, Any]:
    """Results as after loading, in plain arrays; ``masks``: bitmap, polygon or None."""
    rng, (height, width) = np.random.default_rng(seed), size
    low = rng.uniform(-2, [width * .7, height * .7], (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(3, [width * .6, height * .6], (count, 2))], 1).astype(np.float32)
    boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clip(0, width), boxes[:, 1::2].clip(0, height)
    out = dict(img=rng.integers(0, 256, (height, width, 3)).astype(dtype), img_shape=size, ori_shape=size, gt_bboxes=boxes,
               gt_bboxes_labels=rng.integers(0, 9, count), gt_ignore_flags=rng.random(count) < 0.3)
    polygons = [[np.array([x1, y1, x2, y1, x2, y2, (x1 + x2) / 2, y2, x1, y1 + 1], np.float64)] for x1, y1, x2, y2 in boxes]
    if masks:
        drawn = ours.PolygonMasks(polygons, *size)
        out['gt_masks'] = drawn if masks == 'polygon' else ours.BitmapMasks(drawn.to_ndarray(), *size)
    if seg:
        out['gt_seg_map'] = rng.integers(0, 9, size).astype(np.uint8)
    return out


def for_mmdet(results: dict[str, Any]) -> dict[str, Any]:
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks, PolygonMasks
    out = {k: copy.deepcopy(v) for k, v in results.items() if k not in ('rng', 'partner', 'num_samples')}
    if 'gt_bboxes' in out:
        out['gt_bboxes'] = HorizontalBoxes(torch.from_numpy(out['gt_bboxes']))
    if 'gt_masks' in out:
        kind = PolygonMasks if isinstance(out['gt_masks'], ours.PolygonMasks) else BitmapMasks
        out['gt_masks'] = kind(out['gt_masks'].masks, out['gt_masks'].height, out['gt_masks'].width)
    return out


def as_arrays(results: dict[str, Any] | None) -> dict[str, np.ndarray]:
    """What is compared, as arrays: masks as bitmaps."""
    if results is None:
        return {}
    out = {k: results[k] for k in ('img', 'gt_bboxes_labels', 'gt_ignore_flags', 'gt_seg_map') if k in results}
    if 'gt_bboxes' in results:
        boxes = results['gt_bboxes']
        out['gt_bboxes'] = boxes if isinstance(boxes, np.ndarray) else boxes.tensor.numpy()
    if 'gt_masks' in results:
        out['gt_masks'] = results['gt_masks'].to_ndarray().astype(np.uint8)
    for key in ('img_shape', 'scale_factor', 'flip', 'homography_matrix'):
        if key in results:
            out[key] = np.array(results[key])
    return out


def difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, str]:
    """What differs, by key."""
    found = {}
    for key in sorted({*a, *b}):
        if key == 'homography_matrix' and (key not in a or key not in b):
            continue                                      # written by some of either side only
        if key not in a or key not in b:
            found[key] = 'only ' + ('detkit' if key in a else 'mmdet')
        elif a[key].shape != b[key].shape:
            found[key] = f'{a[key].shape} / {b[key].shape}'
        elif a[key].size:
            far = np.abs(a[key].astype(np.float64) - b[key].astype(np.float64))
            if key == 'img' and a[key].dtype != b[key].dtype:
                found['dtype'] = f'{a[key].dtype} / {b[key].dtype}'
            if far.max() > (1e-3 if key in ('gt_bboxes', 'scale_factor', 'homography_matrix') or a[key].dtype.kind == 'f' else 0):
                found[key] = f'{far.max():.3g} ({(far > 1e-3).mean():.1%})'
    return found


def values(log: list) -> list:
    """All draws, arrays taken apart."""
    return [v for _, _, value in log for v in (value.ravel().tolist() if isinstance(value, np.ndarray) else [value])]


def crop_draws(log: list) -> list:
    """Shares are drawn as one pair there."""
    shares = [value for name, _, value in log if name == 'random']
    return ([np.array(shares)] if shares else []) + [value for name, _, value in log if name == 'integers']


def photo_draws(log: list) -> list:
    use, rest = log[0][2], [value for _, _, value in log[1:]]
    return [int(use[i]) for i in (1, 0, 2, 3, 4, 5)] + rest


def draws_as_they_are(log: list) -> list:
    return [value for _, _, value in log]


def window_draws(log: list, ratios: tuple = (0.7, 1.0, 1.3)) -> list:
    """The ratio itself is drawn there, in place of its index."""
    return [ratios[value] if len(args) == 1 else value for _, args, value in log]


def patch_draws(log: list) -> list:
    return [0.5 if name == 'uniform' else value for name, _, value in log]


def mixup_draws(log: list) -> list:
    """Partners are given, not drawn; a place is drawn only where there is more than one."""
    ints = [i for i, (name, _, _) in enumerate(log) if name == 'integers']
    return [value for i, (name, args, value) in enumerate(log[1:], 1)
            if name != 'integers' or i in ints[-2:] and args[0] > 1]


def mosaic_draws(log: list) -> list:
    return [value for name, _, value in log if name != 'integers']


def paste_draws(log: list) -> list:
    """The partner is given; detkit sorts the objects that it drew."""
    return [np.sort(value) if isinstance(value, np.ndarray) else value for _, _, value in log[1:]]


def fixed(value: Any) -> Callable[[list], list]:
    return lambda log: [value]


def give_partners(transform: Any, results: dict, partners: list) -> None:
    """Give MMDetection's mixing transform the partners that detkit drew."""
    if not hasattr(transform, 'results_cache'):
        results['mix_results'] = [for_mmdet(p) for p in partners]
        return
    transform.results_cache = [for_mmdet(p) for p in partners] + [for_mmdet(partners[0])] * (4 if len(partners) > 1 else 0)
    transform.get_indexes = lambda cache: list(range(3)) if len(partners) > 1 else 0


LEVELS = (0, 3, 5, 8, 10, None)
COLOURS = ('Color', 'Brightness', 'Contrast', 'Sharpness', 'Solarize', 'SolarizeAdd', 'Posterize', 'Equalize', 'AutoContrast', 'Invert',
           'ColorTransform')
MOVES = ('ShearX', 'ShearY', 'Rotate', 'TranslateX', 'TranslateY')
CORNERNET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
TEST_MODE = dict(crop_size=None, ratios=None, border=None, test_mode=True)
CASES: list[tuple[str, dict, Callable[[list], list]]] = [
    *(('Resize', options, values) for options in (
        dict(scale=(101, 201)), dict(scale=(101, 201), keep_ratio=True), dict(scale=(37, 25), keep_ratio=True), dict(scale=31),
        dict(scale_factor=0.37), dict(scale_factor=(1.3, .6)), dict(scale_factor=1.7, keep_ratio=True),
        dict(scale=(50, 70), clip_object_border=False), *(dict(scale=(50, 70), interpolation=i) for i in (
            'nearest', 'bicubic', 'area', 'lanczos')), dict(scale=(50, 70), backend='pillow'),
        dict(scale=(50, 70), backend='pillow', interpolation='lanczos'))),
    ('FixScaleResize', dict(scale=(101, 201), keep_ratio=True), values), ('FixScaleResize', dict(scale=(47, 91), keep_ratio=True), values),
    ('FixScaleResize', dict(scale=(47, 91)), values), ('FixScaleResize', dict(scale_factor=.7, keep_ratio=True), values),
    *(('ResizeShortestEdge', options, values) for options in (
        dict(scale=40), dict(scale=(50, 90), max_size=70), dict(scale=47, max_size=61), dict(scale=47, max_size=61, keep_ratio=True))),
    ('RandomResize', dict(scale=(90, 70), ratio_range=(.73, .73), keep_ratio=True), fixed(0.)),
    ('RandomResize', dict(scale=(90, 70), ratio_range=(1.31, 1.31)), fixed(0.)),
    ('RandomResize', dict(scale=[(40, 90), (60, 90)], keep_ratio=True), values), ('RandomResize', dict(scale=[(40, 90), (60, 20)]), values),
    ('RandomChoiceResize', dict(scales=[(40, 90), (60, 20)], keep_ratio=True), values),
    ('RandomChoiceResize', dict(scales=[(40, 90), (60, 20)], resize_type='FixScaleResize', keep_ratio=True), values),
    *(('RandomFlip', dict(prob=1.0, direction=d, **more), fixed(d)) for d in ('horizontal', 'vertical', 'diagonal') for more in (
        {}, dict(swap_seg_labels=[(1, 2), (4, 7)]))),
    *(('Pad', options, values) for options in (
        dict(size=(100, 90)), dict(size=(30, 90)), dict(size_divisor=32), dict(pad_to_square=True), dict(size_divisor=32, pad_val=7),
        dict(pad_to_square=True, size_divisor=32), dict(size=(100, 90), pad_val=dict(img=(1, 2, 3), seg=9, masks=1)),
        *(dict(size_divisor=16, padding_mode=m) for m in ('edge', 'reflect', 'symmetric')))),
    *(('RandomCrop', dict(crop_type=kind, crop_size=size, allow_negative_crop=True, **more), crop_draws)
      for kind, size in (('absolute', (20, 35)), ('absolute', (500, 9)), ('absolute_range', (15, 30)), ('relative', (.3, .8)),
                         ('relative_range', (.3, .8)))
      for more in ({}, dict(bbox_clip_border=False), dict(recompute_bbox=True))),
    ('MinIoURandomCrop', {}, values), ('MinIoURandomCrop', dict(min_ious=(.1,), min_crop_size=.1, bbox_clip_border=False), values),
    ('FilterAnnotations', {}, values), ('FilterAnnotations', dict(min_gt_bbox_wh=(18, 11), keep_empty=False), values),
    ('FilterAnnotations', dict(min_gt_mask_area=150, by_mask=True, by_box=False), values),
    *(('Expand', dict(prob=1.0, ratio_range=(1, 3), seg_ignore_label=3, **more), values) for more in (
        {}, dict(mean=(1, 2, 3)), dict(mean=(9.7, 2.2, 3.1), to_rgb=False))),
    ('RandomCenterCropPad', dict(crop_size=(40, 60), ratios=(.7, 1., 1.3), border=16, test_pad_mode=None, **CORNERNET), window_draws),
    ('RandomCenterCropPad', dict(crop_size=(41, 61), ratios=(.7, 1., 1.3), border=16, test_pad_mode=None, **CORNERNET), window_draws),
    ('RandomCenterCropPad', dict(crop_size=(40, 60), ratios=(.7, 1., 1.3), border=16, test_pad_mode=None, bbox_clip_border=False,
                                 **CORNERNET), window_draws),
    *(('RandomCenterCropPad', dict(**TEST_MODE, **CORNERNET, **more), values) for more in (
        dict(test_pad_mode=('logical_or', 127)), dict(test_pad_mode=('logical_or', 31), test_pad_add_pix=1),
        dict(test_pad_mode=('size_divisor', 32)))),
    ('RandomAffine', {}, values), ('RandomAffine', dict(border=(-9, 4), border_val=(1, 2, 3)), values),
    ('RandomAffine', dict(max_rotate_degree=0., max_shear_degree=0., scaling_ratio_range=(1., 1.)), values),
    ('RandomAffine', dict(bbox_clip_border=False, max_translate_ratio=.4), values),
    ('RandomShift', dict(prob=1.0), values), ('RandomShift', dict(prob=1.0, max_shift_px=9, filter_thr_px=12), values),
    ('PhotoMetricDistortion', {}, photo_draws),
    ('PhotoMetricDistortion', dict(brightness_delta=90, contrast_range=(.1, 3.), saturation_range=(.1, 4.), hue_delta=170), photo_draws),
    ('YOLOXHSVRandomAug', {}, draws_as_they_are),
    ('YOLOXHSVRandomAug', dict(hue_delta=170, saturation_delta=200, value_delta=200), draws_as_they_are),
    *((name, dict(level=level), values) for name in COLOURS for level in LEVELS),
    *((name, dict(level=level, reversal_prob=p, **more), values) for name in MOVES for level in LEVELS for p in (0., .5, 1.) for more in (
        {}, dict(img_border_value=(1, 2, 3), seg_ignore_label=4, interpolation='nearest'))),
    ('AutoAugment', {}, draws_as_they_are), ('RandAugment', {}, draws_as_they_are),
    ('CutOut', dict(n_holes=3, cutout_shape=(9, 5)), values), ('CutOut', dict(n_holes=(1, 4), cutout_ratio=[(.2, .1), (.3, .4)],
                                                                               fill_in=(1, 2, 3)), values),
    ('RandomErasing', dict(n_patches=3, ratio=.3), patch_draws),
    ('RandomErasing', dict(n_patches=(1, 5), ratio=.4, squared=False, bbox_erased_thr=.4, img_border_value=(1, 2, 3), mask_border_value=1,
                           seg_ignore_label=5), patch_draws),
    *((name, dict(img_scale=(50, 40), **more), mosaic_draws) for name in ('Mosaic', 'CachedMosaic') for more in (
        {}, dict(center_ratio_range=(.8, 1.2), bbox_clip_border=False, pad_val=7.))),
    *((name, dict(img_scale=(50, 40), **more), mixup_draws) for name in ('MixUp', 'CachedMixUp') for more in (
        {}, dict(ratio_range=(1., 1.)), dict(flip_ratio=0., pad_val=7., bbox_clip_border=False))),
    *(('CopyPaste', more, paste_draws) for more in (
        {}, dict(max_num_pasted=2, bbox_occluded_thr=3, mask_occluded_thr=50), dict(paste_by_box=True))),
]
MIXES = ('Mosaic', 'CachedMosaic', 'MixUp', 'CachedMixUp', 'CopyPaste')


def build_theirs(name: str, options: dict) -> Any:
    import mmdet.datasets.transforms  # noqa: F401 - registers
    from mmdet.registry import TRANSFORMS as THEIRS
    return THEIRS.build(dict(type=name, **copy.deepcopy(options)))


def compare(name: str, options: dict, draws: Callable[[list], list], results: dict[str, Any], seed: int) -> dict[str, str]:
    """Run both on ``results``; what differs."""
    partners: list[dict] = []
    size = results['img_shape']

    def partner(index: int) -> dict:
        other = make_input(1000 + int(index), size if name == 'CopyPaste' else SIZES[int(index) % 3], results['img'].dtype,
                           next((('polygon' if isinstance(m, ours.PolygonMasks) else 'bitmap') for m in [results.get('gt_masks')] if m
                                 is not None), None))
        partners.append(copy.deepcopy(other))
        return dict(other, rng=rng)
    rng = RecordingRng(seed)
    theirs_in = for_mmdet(results)
    mine = TRANSFORMS.build(dict(type=name, **copy.deepcopy(options)))(
        dict(copy.deepcopy(results), rng=rng, num_samples=50, partner=partner))
    other = build_theirs(name, options)
    if name in MIXES:
        give_partners(other, theirs_in, partners)
    queue = draws(rng.log)
    with replayed([0., *queue] if name == 'CachedMixUp' else queue):      # MixUp has no probability there
        theirs = other(theirs_in)
    return difference(as_arrays(mine), as_arrays(theirs))


def inputs(seed: int) -> list[tuple[str, dict]]:
    """Kinds of input, by name."""
    size = SIZES[seed % len(SIZES)]
    kinds = {'uint8': {}, 'float32': dict(dtype=np.float32), 'empty': dict(count=0), 'empty float32': dict(count=0, dtype=np.float32),
             'bitmap': dict(masks='bitmap', seg=True),
             'polygon': dict(masks='polygon')}
    return [(kind, make_input(seed, size, **options)) for kind, options in kinds.items()]


def files(folder: Path) -> dict[str, str]:
    """An image of each kind and a segmentation map, written to ``folder``: name -> path."""
    rng = np.random.default_rng(0)
    color = cv2.resize(rng.integers(0, 256, (6, 8, 4)).astype(np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
    images = {'color.jpg': color[..., :3], 'color.png': color[..., :3], 'grey.png': color[..., 0], 'alpha.png': color,
              '16bit.png': color[..., 0].astype(np.uint16) * 200, 'seg.png': rng.integers(0, 6, (48, 64)).astype(np.uint8)}
    for name, image in images.items():
        cv2.imwrite(str(folder / name), image)
    return {name: str(folder / name) for name in images}


def make_instances() -> list[dict]:
    """Objects with every kind of mask: polygons, run lengths as text and as numbers, one without a usable polygon, a crowd."""
    from pycocotools import mask as coco_mask
    bitmap = np.zeros((48, 64), np.uint8)
    bitmap[5:20, 9:30] = 1
    text = coco_mask.encode(np.asfortranarray(bitmap))
    text = dict(size=text['size'], counts=text['counts'].decode())
    numbers = dict(size=[48, 64], counts=[9 * 48 + 5] + [15, 33] * 20 + [15, 48 * 64 - 9 * 48 - 5 - 21 * 15 - 20 * 33])
    masks = [[[3., 4., 30., 5., 20., 40.], [40., 4., 60., 5., 50., 30.]], text, numbers, [[1., 2., 3.]],
             [[10.5, 11.2, 40.1, 12., 30., 44.4]]]
    return [dict(bbox=[2. + i, 3., 40.5 + i, 44.], bbox_label=i, mask=mask, ignore_flag=int(i == 4)) for i, mask in enumerate(masks)]


def compared_loading(folder: Path) -> Iterator[tuple[str, dict, tuple[list[str], dict]]]:
    """As ``compared``, for what reads files and packs."""
    paths = files(folder)
    base = dict(ori_shape=(48, 64), img_shape=(48, 64), height=48, width=64)
    images = [dict(img_path=path) for name, path in paths.items() if name != 'seg.png']
    annotated = dict(base, instances=make_instances(), seg_map_path=paths['seg.png'])
    loads = [('LoadImageFromFile', options, images) for options in (
        {}, dict(to_float32=True), dict(color_type='grayscale'), dict(color_type='unchanged'), dict(color_type='color_ignore_orientation'))]
    loads += [('LoadAnnotations', options, [annotated, dict(base, instances=[], seg_map_path=None),
                                            dict(annotated, label_map={1: 4, 4: 0, 2: 1})]) for options in (
        {}, dict(with_mask=True), dict(with_mask=True, poly2mask=False), dict(with_seg=True), dict(with_seg=True, reduce_zero_label=True),
        dict(with_seg=True, reduce_zero_label=True, ignore_index=100), dict(with_bbox=False), dict(with_label=False), dict(box_type=None))]
    empty = dict(base, img=np.zeros((48, 64, 3), np.uint8))
    loads += [('LoadEmptyAnnotations', options, [empty]) for options in (
        {}, dict(with_bbox=False), dict(with_label=False), dict(with_mask=True, with_seg=True, seg_ignore_label=7))]
    for name, options, samples in loads:
        refused, found = [], {}
        for sample in samples:
            sides = []
            for build in (lambda cfg: TRANSFORMS.build(cfg), lambda cfg: build_theirs(cfg.pop('type'), cfg)):
                try:
                    sides.append(as_arrays(build(dict(type=name, **options))(copy.deepcopy(sample))))
                except Exception as error:
                    refused.append(f'{type(error).__name__} {str(error)[:60]}')
            if len(sides) == 2:
                found.update(difference(*sides))
        yield name, options, (refused, found)
    yield from compared_packing()
    yield from compared_pipelines()


def compared_pipelines() -> Iterator[tuple[str, dict, tuple[list[str], dict]]]:
    """Transforms that hold others: TestTimeAug, MultiBranch, Albu."""
    given, pack = make_input(0, (48, 64), masks='bitmap'), dict(type='PackDetInputs', meta_keys=('img_shape', 'scale_factor', 'flip'))
    views = [[dict(type='Resize', scale=s, keep_ratio=True) for s in ((60, 40), (90, 70))],
             [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)], [pack]]
    for name, options in (('TestTimeAug', dict(transforms=views)), ('MultiBranch', dict(branch_field=['a', 'b'], a=[pack], b=[pack]))):
        mine = TRANSFORMS.build(dict(type=name, **copy.deepcopy(options)))(dict(copy.deepcopy(given), rng=RecordingRng(0)))
        theirs = build_theirs(name, options)(for_mmdet(given))
        found: dict[str, str] = {}
        for view in range(4) if name == 'TestTimeAug' else ('a', 'b'):
            found.update(difference(*(packed_arrays({k: v[view] for k, v in side.items()}) for side in (mine, theirs))))
        yield name, options, ([], found)
    usual = dict(bbox_params=dict(type='BboxParams', format='pascal_voc', label_fields=['gt_bboxes_labels', 'gt_ignore_flags'],
                                  filter_lost_elements=True), keymap=dict(img='image', gt_masks='masks', gt_bboxes='bboxes'))
    for steps in ([dict(type='HorizontalFlip', p=1.)], [dict(type='Transpose', p=1.)], [dict(type='Resize', height=30, width=40, p=1.)],
                  [dict(type='CenterCrop', height=30, width=40, p=1.)]):
        mine = TRANSFORMS.build(dict(type='Albu', transforms=copy.deepcopy(steps), **usual))(
            dict(copy.deepcopy(given), rng=RecordingRng(0)))
        theirs = build_theirs('Albu', dict(transforms=steps, **usual))(for_mmdet(given))
        yield 'Albu', dict(transforms=steps), ([], difference(as_arrays(mine), as_arrays(theirs)))


def compared_packing() -> Iterator[tuple[str, dict, tuple[list[str], dict]]]:
    """PackDetInputs with every choice of fields."""
    whole = make_input(0, (48, 64), masks='bitmap', seg=True)
    fields = ('gt_bboxes', 'gt_bboxes_labels', 'gt_masks', 'gt_ignore_flags', 'gt_seg_map')
    for chosen in itertools.product((True, False), repeat=len(fields)):
        left_out = [field for field, is_chosen in zip(fields, chosen) if not is_chosen]
        given = {k: v for k, v in whole.items() if k not in left_out}
        mine = TRANSFORMS.build(dict(type='PackDetInputs'))(copy.deepcopy(given))
        theirs = build_theirs('PackDetInputs', {})(for_mmdet(given))
        yield 'PackDetInputs', dict(without=left_out), ([], difference(packed_arrays(mine), packed_arrays(theirs)))


def packed_arrays(packed: dict) -> dict[str, np.ndarray]:
    sample = packed['data_samples']
    out = {'inputs': packed['inputs'].numpy()}
    for part in ('gt_instances', 'ignored_instances'):
        for key, value in getattr(sample, part).items():
            value = getattr(value, 'tensor', value)
            if len(value):
                out[f'{part}.{key}'] = value.to_ndarray() if hasattr(value, 'to_ndarray') else np.asarray(value)
    if 'gt_sem_seg' in sample:
        out['gt_sem_seg'] = sample.gt_sem_seg.sem_seg.numpy()
    return out


def main(names: list[str]) -> int:
    sys.meta_path.insert(0, OpsFinder())
    try:
        import mmdet  # noqa: F401
    except ImportError as error:
        print(f'MMDetection cannot be imported ({error}). See the first lines of {__file__}.')
        return 2
    from mmengine.registry import DefaultScope
    DefaultScope.get_instance('compare', scope_name='mmdet')
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        loading = [line for line in compared_loading(Path(folder)) if not names or line[0] in names]
    lines = [(f'{name} {options}', *found) for name, options, found in [*compared(names), *loading]]
    for text, kinds, found in lines:
        print(f'{text}: {found or "equal"}' + (f' (not compared: {", ".join(kinds)})' if kinds else ''))
    print(f'{sum(bool(found) for _, _, found in lines)} of {len(lines)} differ')
    return 0


def compared(names: list[str]) -> Iterator[tuple[str, dict, tuple[list[str], dict]]]:
    """Name, arguments, and: the kinds of input that one side refuses, and what differs by kind."""
    for name, options, draws in CASES:
        if names and name not in names:
            continue
        refused, found = [], {}
        for seed in range(6):
            for kind, results in inputs(seed):
                try:
                    result = compare(name, options, draws, results, seed)
                except Exception as error:
                    refused += [f'{kind}: {type(error).__name__} {str(error)[:60]}']
                    continue
                for key, text in result.items():
                    found.setdefault(kind, {}).setdefault(key, text)
        yield name, options, (sorted({*refused}), found)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
