"""Albumentations transforms (https://albumentations.ai, MIT), with the argument names of releases 1.x and 2.x.

Release 2 renamed arguments and only warns about unknown ones, so an old config would train with different strengths than it says.
Therefore old names are translated here, and names that are still unknown raise an error.
"""
from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from detkit.data.transforms.base import BaseTransform
from detkit.data.transforms.crop import keep_objects
from detkit.registry import TRANSFORMS, ConfigError, did_you_mean
from detkit.structures.masks import BitmapMasks

KEYMAP = {'img': 'image', 'gt_masks': 'masks', 'gt_bboxes': 'bboxes'}
FILLS = {'value': 'fill', 'cval': 'fill', 'mask_value': 'fill_mask', 'cval_mask': 'fill_mask', 'fill_value': 'fill',
         'mask_fill_value': 'fill_mask', 'mode': 'border_mode'}
FILLED = ('ShiftScaleRotate', 'Rotate', 'SafeRotate', 'Affine', 'Perspective', 'PadIfNeeded', 'ElasticTransform', 'GridDistortion',
          'OpticalDistortion', 'CoarseDropout', 'GridDropout', 'CropAndPad')


def quality(args: dict) -> dict:
    return {'quality_range': (args.pop('quality_lower', 99), args.pop('quality_upper', 100))} \
        if {'quality_lower', 'quality_upper'} & set(args) else {}


def holes(args: dict) -> dict:
    """Translate the arguments of Cutout and the old CoarseDropout; a missing lower bound equals the upper bound."""
    count, height, width = args.pop('num_holes', args.pop('max_holes', 8)), args.pop('max_h_size', None), args.pop('max_w_size', None)
    height, width = height or args.pop('max_height', 8), width or args.pop('max_width', 8)
    least = [args.pop(k, None) for k in ('min_holes', 'min_height', 'min_width')]
    ranges = [(most if low is None else low, most) for low, most in zip(least, (count, height, width))]
    return dict(zip(('num_holes_range', 'hole_height_range', 'hole_width_range'), ranges))


def noise(args: dict) -> dict:
    """Convert variances in levels 0 to 255 to standard deviations as fractions of the range."""
    if 'var_limit' not in args:
        return {}
    given = args.pop('var_limit')
    low, high = (10., given) if isinstance(given, (int, float)) else given
    return {'std_range': (math.sqrt(low) / 255, math.sqrt(high) / 255)}


def sized(args: dict) -> dict:
    return {'size': (args.pop('height'), args.pop('width'))} if 'height' in args else {}


def downscale(args: dict) -> dict:
    return {'scale_range': (args.pop('scale_min', 0.25), args.pop('scale_max', 0.25))} if {'scale_min', 'scale_max'} & set(args) else {}


RENAMED = {'JpegCompression': 'ImageCompression', 'Cutout': 'CoarseDropout', 'RandomBrightness': 'RandomBrightnessContrast',
           'RandomContrast': 'RandomBrightnessContrast', 'IAAAdditiveGaussianNoise': 'GaussNoise'}
CHANGED: dict[str, Callable[[dict], dict]] = {'JpegCompression': quality, 'ImageCompression': quality, 'Cutout': holes, 'GaussNoise': noise,
                                              'RandomSizedCrop': sized, 'RandomResizedCrop': sized, 'Downscale': downscale}


def translated(cfg: dict) -> dict:
    """Convert a transform config of albumentations 1.x to 2.x; configs of 2.x are not changed."""
    args = {k: v for k, v in cfg.items() if k != 'type'}
    name = cfg['type']
    if args.pop('always_apply', False):
        args['p'] = 1.0
    if name == 'Flip':
        p = args.pop('p', 0.5)
        return dict(type='OneOf', transforms=[dict(type='HorizontalFlip', p=1.0), dict(type='VerticalFlip', p=1.0)], p=p, **args)
    if name in ('RandomBrightness', 'RandomContrast'):
        kind, other = ('brightness_limit', 'contrast_limit') if name == 'RandomBrightness' else ('contrast_limit', 'brightness_limit')
        args.update({kind: args.pop('limit', 0.2), other: 0})
    if name in CHANGED or name == 'CoarseDropout' and {'max_holes', 'max_height', 'max_width'} & set(args):
        args.update(CHANGED.get(name, holes)(args))
    if RENAMED.get(name, name) in FILLED:
        args = {FILLS.get(k, k): v for k, v in args.items()}
    return dict(type=RENAMED.get(name, name), **args)


def build(cfg: dict, where: str) -> Any:
    """Build the albumentations object of ``cfg``; ``where``: its place in the config, for messages."""
    import albumentations
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise ConfigError(f'{where}: {cfg!r} is not a config with a type.')
    args = translated(cfg)
    name = args.pop('type')
    kind = getattr(albumentations, name, None) if isinstance(name, str) else name
    if kind is None:
        raise ConfigError(f"{where}: albumentations {albumentations.__version__} has no '{name}'.{did_you_mean(name, dir(albumentations))}")
    if 'transforms' in args:
        args['transforms'] = [build(t, f'{where}.transforms[{i}]') for i, t in enumerate(args['transforms'])]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('error', 'Argument', UserWarning)     # raise on arguments that albumentations would ignore
            warnings.filterwarnings('ignore', '.*special case of', UserWarning)   # advice to rewrite a config
            return kind(**args)
    except (TypeError, ValueError, UserWarning) as error:
        raise ConfigError(f'{where}: {name} does not take these arguments ({str(error).splitlines()[0]}). See its page in the '
                          f'documentation of albumentations {albumentations.__version__}.') from error


@TRANSFORMS.register_module()
class Albu(BaseTransform):
    """Apply albumentations transforms in sequence to the image, boxes, labels, flags and masks.

    Args:
        transforms: ``dict(type=name, ...)`` for each transform, nested where albumentations nests; p is the probability.
        bbox_params: limits below which a box is dropped: ``min_area``, ``min_visibility``, ``min_width``, ``min_height``, ... Boxes are
            in xyxy pixels (``pascal_voc``). All fields of a dropped box are dropped too.
        keymap: MMDetection's argument; only its usual value is supported.
        skip_img_without_anno: return None if no box is left, so another sample is drawn.

    Raises:
        ConfigError: the installed albumentations does not know a name or an argument.
    """

    random = True

    def __init__(self, transforms: Sequence[dict], bbox_params: dict | None = None, keymap: dict | None = None,
                 skip_img_without_anno: bool = False) -> None:
        os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')     # otherwise albumentations asks the package index for its newest release
        import albumentations
        params = {k: v for k, v in (bbox_params or {}).items() if k not in ('type', 'label_fields', 'filter_lost_elements')}
        if params.pop('format', 'pascal_voc') != 'pascal_voc':
            raise ConfigError(f"Albu bbox_params.format='{bbox_params['format']}' is not offered; boxes are xyxy pixels: 'pascal_voc'.")
        if any(KEYMAP.get(k) != v for k, v in (keymap or {}).items()):
            raise ConfigError(f'Albu keymap={keymap} is not offered; only {KEYMAP}.')
        self.transforms, self.skip_img_without_anno = list(transforms), skip_img_without_anno
        try:
            boxes = albumentations.BboxParams('pascal_voc', label_fields=['index'], **{'filter_invalid_bboxes': True, **params})
        except (TypeError, ValueError) as error:
            raise ConfigError(f'Albu bbox_params={bbox_params}: {error}') from error
        steps = [build(t, f'Albu.transforms[{i}]') for i, t in enumerate(transforms)]
        self._with_boxes, self._without = albumentations.Compose(steps, bbox_params=boxes), albumentations.Compose(steps)

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        masks = results.get('gt_masks')
        if masks is not None and not isinstance(masks, BitmapMasks):
            raise ConfigError('Albu moves bitmaps, not polygons. Set poly2mask=True of LoadAnnotations.')
        given: dict[str, Any] = dict(image=results['img'])
        if masks is not None and len(masks):
            given['masks'] = masks.masks
        if 'gt_bboxes' in results:
            given.update(bboxes=results['gt_bboxes'], index=np.arange(len(results['gt_bboxes'])))
        run = self._with_boxes if 'gt_bboxes' in results else self._without
        run.set_random_seed(int(results['rng'].integers(2**31)))
        made = run(**given)
        results['img'] = np.ascontiguousarray(made['image'])
        results['img_shape'] = size = results['img'].shape[:2]
        if masks is not None:
            results['gt_masks'] = BitmapMasks(np.asarray(made['masks']) if len(masks) else [], *size)
        if 'gt_bboxes' in results:
            keep_objects(results, np.asarray(made['index'], np.int64).reshape(-1))
            results['gt_bboxes'] = np.asarray(made['bboxes'], np.float32).reshape(-1, 4)
            if self.skip_img_without_anno and not len(results['gt_bboxes']):
                return None
        return results
