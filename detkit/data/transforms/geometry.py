"""Resize, flip, pad: image, boxes and masks together.

Keys read and written, if present: ``img``, ``img_shape``, ``gt_bboxes``, ``gt_masks``, ``gt_seg_map``. Sizes in configs are
(width, height).
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from detkit.data.transforms.base import BaseTransform
from detkit.opencv import cv2
from detkit.registry import TRANSFORMS, ConfigError, check_keys
from detkit.structures.masks import INTERPOLATIONS, rounded

Scale = tuple[int, int]
PadValue = float | tuple[float, ...]
RESIZERS = dict(cv2=tuple(INTERPOLATIONS), pillow=('nearest', 'bilinear', 'bicubic', 'box', 'lanczos', 'hamming'))
DIRECTIONS = ('horizontal', 'vertical', 'diagonal')
PADDING_MODES = {'constant': cv2.BORDER_CONSTANT, 'edge': cv2.BORDER_REPLICATE, 'reflect': cv2.BORDER_REFLECT_101,
                 'symmetric': cv2.BORDER_REFLECT}


def fitted_size(size: tuple[int, int], scale: Scale, to_int: Callable[[float], int] = rounded) -> tuple[int, int]:
    """Return the largest (width, height), with the aspect ratio of ``size`` (height, width), that fits in ``scale``.

    The long side is limited by the long side of ``scale``, the short side by its short side.
    """
    height, width = size
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return to_int(width * factor), to_int(height * factor)


def clip_boxes_(boxes: np.ndarray, size: tuple[int, int]) -> None:
    """Clip (n, 4) xyxy to an image of ``size`` (height, width), in place."""
    boxes[:, 0::2] = boxes[:, 0::2].clip(0, size[1])
    boxes[:, 1::2] = boxes[:, 1::2].clip(0, size[0])


def resized_by_pillow(image: np.ndarray, size: Scale, interpolation: str) -> np.ndarray:
    """Resize uint8 (H, W[, 3]) to ``size`` (width, height). Unlike OpenCV, Pillow applies antialiasing when it downsamples.

    Raises:
        ConfigError: the image is not uint8.
    """
    from PIL import Image
    if image.dtype != np.uint8:
        raise ConfigError(f"Resize backend='pillow' needs uint8 images, given {image.dtype}. Set to_float32=False of LoadImageFromFile, or "
                          f"backend='cv2'.")
    return np.asarray(Image.fromarray(image).resize(size, getattr(Image.Resampling, interpolation.upper())))


def record_(results: dict[str, Any], matrix: Sequence[Sequence[float]]) -> None:
    """Update ``homography_matrix`` (3, 3) float32, the map from the original image to the current image: ``matrix`` is applied last."""
    results['homography_matrix'] = (np.asarray(matrix) @ results.get('homography_matrix', np.eye(3))).astype(np.float32)


@TRANSFORMS.register_module()
class Resize(BaseTransform):
    """Resize to ``scale`` (width, height), or by ``scale_factor`` (a number or (w, h)).

    Writes ``scale``, ``scale_factor`` (w, h), ``keep_ratio``. ``keep_ratio``: the largest size that fits in ``scale``, long side within
    its long side, short side within its short side. ``clip_object_border``: clip boxes to the image. ``scale_factor`` accumulates over
    several resizes: it always maps the original image to the current image.
    """

    to_int = staticmethod(rounded)     # rounds a side computed for ``keep_ratio``

    def __init__(self, scale: int | Scale | None = None, scale_factor: float | tuple[float, float] | None = None,
                 keep_ratio: bool = False, clip_object_border: bool = True, backend: str = 'cv2',
                 interpolation: str = 'bilinear') -> None:
        if (scale is None) == (scale_factor is None):
            raise ConfigError('Resize needs one of scale (width, height) and scale_factor.')
        if interpolation not in RESIZERS.get(backend, ()):
            known = '; '.join(f'{name} with {", ".join(kinds)}' for name, kinds in RESIZERS.items())
            raise ConfigError(f"Resize backend='{backend}', interpolation='{interpolation}' is not offered. Known: {known}.")
        self.scale = (scale, scale) if isinstance(scale, int) else scale and tuple(scale)
        self.scale_factor = (scale_factor, scale_factor) if isinstance(scale_factor, (int, float)) else scale_factor
        self.keep_ratio, self.clip_object_border = keep_ratio, clip_object_border
        self.backend, self.interpolation = backend, interpolation

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        height, width = results['img'].shape[:2]
        scale = self.scale or (rounded(width * self.scale_factor[0]), rounded(height * self.scale_factor[1]))
        return self.resized(results, scale)

    def resized(self, results: dict[str, Any], scale: Scale) -> dict[str, Any]:
        before = results['img'].shape[:2]
        size = fitted_size(before, scale, self.to_int) if self.keep_ratio else tuple(scale)
        size = max(size[0], 1), max(size[1], 1)
        results['img'] = self.resized_image(results['img'], size, self.interpolation)
        after = results['img'].shape[:2]
        factor = after[1] / before[1], after[0] / before[0]
        was = results.get('scale_factor', (1., 1.))
        results.update(img_shape=after, scale=tuple(scale), keep_ratio=self.keep_ratio,
                       scale_factor=(was[0] * factor[0], was[1] * factor[1]))
        record_(results, np.diag([*factor, 1]))
        if 'gt_bboxes' in results:
            results['gt_bboxes'] = results['gt_bboxes'] * np.array([*factor, *factor], np.float32)
            if self.clip_object_border:
                clip_boxes_(results['gt_bboxes'], after)
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'].resize(after)
        if 'gt_seg_map' in results:
            results['gt_seg_map'] = self.resized_image(results['gt_seg_map'], size, 'nearest')
        return results

    def resized_image(self, image: np.ndarray, size: Scale, interpolation: str) -> np.ndarray:
        """Resize (H, W[, C]) to ``size`` (width, height)."""
        if self.backend == 'pillow':
            return resized_by_pillow(image, size, interpolation)
        return cv2.resize(image, size, interpolation=INTERPOLATIONS[interpolation])


@TRANSFORMS.register_module()
class FixScaleResize(BaseTransform):
    """A Resize that rounds down the sides computed for ``keep_ratio``.

    300 x 200 to (101, 201) gives 151 x 101; Resize gives 152 x 101. Used by MMDetection for GLIP (https://arxiv.org/abs/2112.03857).
    """

    def __init__(self, scale: int | Scale | None = None, scale_factor: float | tuple[float, float] | None = None,
                 keep_ratio: bool = False, clip_object_border: bool = True, backend: str = 'cv2',
                 interpolation: str = 'bilinear') -> None:
        self.resize = Resize(scale, scale_factor, keep_ratio, clip_object_border, backend, interpolation)
        self.resize.to_int = int

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        return self.resize(results)

    def resized(self, results: dict[str, Any], scale: Scale) -> dict[str, Any]:
        return self.resize.resized(results, scale)


@TRANSFORMS.register_module()
class ResizeShortestEdge(BaseTransform):
    """Resize the short side to ``scale`` pixels (the smaller of a pair), the long side to at most ``max_size``, keeping the aspect ratio.

    ``options`` are arguments of ``resize_type``.
    """

    def __init__(self, scale: int | Scale, max_size: int | None = None, resize_type: str = 'Resize', **options: Any) -> None:
        self.scale, self.max_size = scale if isinstance(scale, int) else min(scale), max_size
        self.resize = TRANSFORMS.build(dict(type=resize_type, scale=(1, 1), **options))

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        height, width = results['img'].shape[:2]
        factor = self.scale / min(height, width)
        width, height = (factor * width, self.scale) if height < width else (self.scale, factor * height)
        if self.max_size and max(height, width) > self.max_size:
            factor = self.max_size / max(height, width)
            width, height = width * factor, height * factor
        return self.resize.resized(results, (rounded(width), rounded(height)))


@TRANSFORMS.register_module()
class RandomResize(BaseTransform):
    """Resize to a random scale.

    The scale is drawn between two ``scale`` values (width, height), each side independently, or is one ``scale`` times a random factor
    in ``ratio_range``.
    """

    random = True

    def __init__(self, scale: Scale | Sequence[Scale], ratio_range: tuple[float, float] | None = None,
                 resize_type: str = 'Resize', **options: Any) -> None:
        several = not isinstance(scale[0], (int, float))
        if several != (ratio_range is None) or several and len(scale) != 2:
            raise ConfigError('RandomResize needs one scale (width, height) with ratio_range, or two scales without.')
        self.scale, self.ratio_range = scale, ratio_range
        self.resize = TRANSFORMS.build(dict(type=resize_type, scale=(1, 1), **options))

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        rng = results['rng']
        if self.ratio_range:
            ratio = rng.uniform(*self.ratio_range)
            scale = int(self.scale[0] * ratio), int(self.scale[1] * ratio)
        else:
            scale = tuple(int(rng.integers(min(sides), max(sides) + 1)) for sides in zip(*self.scale))
        return self.resize.resized(results, scale)


@TRANSFORMS.register_module()
class RandomChoiceResize(BaseTransform):
    """Resize to a random choice of ``scales`` (width, height)."""

    random = True

    def __init__(self, scales: Sequence[int | Scale], resize_type: str = 'Resize', **options: Any) -> None:
        self.scales = [(s, s) if isinstance(s, int) else tuple(s) for s in scales]
        self.resize = TRANSFORMS.build(dict(type=resize_type, scale=(1, 1), **options))

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        return self.resize.resized(results, self.scales[int(results['rng'].integers(len(self.scales)))])


@TRANSFORMS.register_module()
class RandomFlip(BaseTransform):
    """Flip with probability ``prob`` along ``direction``. Writes ``flip`` and ``flip_direction``.

    With several directions, a single ``prob`` is divided among them; a list gives one probability per direction. ``swap_seg_labels``:
    pairs of labels, such as left and right, that are swapped in ``gt_seg_map`` when it is flipped.
    """

    random = True

    def __init__(self, prob: float | Sequence[float], direction: str | Sequence[str] = 'horizontal',
                 swap_seg_labels: Sequence[tuple[int, int]] | None = None) -> None:
        self.directions = [direction] if isinstance(direction, str) else list(direction)
        self.probs = [prob / len(self.directions)] * len(self.directions) if isinstance(prob, (int, float)) else list(prob)
        unknown = [d for d in self.directions if d not in DIRECTIONS]
        if unknown:
            raise ConfigError(f"RandomFlip direction='{unknown[0]}' is unknown. Known: {', '.join(DIRECTIONS)}.")
        if len(self.probs) != len(self.directions) or not 0 <= sum(self.probs) <= 1 + 1e-9:
            raise ConfigError(f'RandomFlip prob={prob} does not fit direction={direction}: one probability each, at most 1 in all.')
        if any(len(p) != 2 for p in swap_seg_labels or ()):
            raise ConfigError(f'RandomFlip swap_seg_labels={swap_seg_labels} must be pairs of labels.')
        self.swap_seg_labels = [tuple(p) for p in swap_seg_labels or ()]

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        draw, direction = results['rng'].random(), None
        for name, p in zip(self.directions, self.probs):
            if draw < p:
                direction = name
                break
            draw -= p
        results.update(flip=direction is not None, flip_direction=direction)
        if direction is None:
            return results
        flipped(results, direction)
        if 'gt_seg_map' in results:
            before, after = results['gt_seg_map'].copy(), results['gt_seg_map']
            for a, b in self.swap_seg_labels:
                after[before == a], after[before == b] = b, a
        return results


def flipped(results: dict[str, Any], direction: str) -> dict[str, Any]:
    """Flip image, boxes and masks; x becomes width - x, y height - y."""
    across, down = direction in ('horizontal', 'diagonal'), direction in ('vertical', 'diagonal')
    code = -1 if across and down else int(across)                      # OpenCV's flip code; several times faster than copying a numpy view
    results['img'] = cv2.flip(results['img'], code)
    height, width = results['img'].shape[:2]
    record_(results, [[-1 if across else 1, 0, width * across], [0, -1 if down else 1, height * down], [0, 0, 1]])
    if 'gt_bboxes' in results:
        x1, y1, x2, y2 = results['gt_bboxes'].T
        if across:
            x1, x2 = width - x2, width - x1
        if down:
            y1, y2 = height - y2, height - y1
        results['gt_bboxes'] = np.stack([x1, y1, x2, y2], 1)
    if 'gt_masks' in results:
        results['gt_masks'] = results['gt_masks'].flip(direction)
    if 'gt_seg_map' in results:
        results['gt_seg_map'] = cv2.flip(results['gt_seg_map'], code)
    return results


@TRANSFORMS.register_module()
class Pad(BaseTransform):
    """Pad right and bottom to ``size`` (width, height), to a multiple of ``size_divisor``, or to a square (``pad_to_square``).

    ``pad_val``: a number, or ``dict(img=..., seg=..., masks=...)``. An image larger than ``size`` is not changed. ``padding_mode``:
    'constant'; 'edge' repeats the last pixel; 'reflect' mirrors without repeating the edge pixel, 'symmetric' repeats it. Masks are
    always padded with a constant.
    """

    def __init__(self, size: Scale | None = None, size_divisor: int | None = None, pad_to_square: bool = False,
                 pad_val: PadValue | dict[str, PadValue] = dict(img=0, seg=255), padding_mode: str = 'constant') -> None:
        if padding_mode not in PADDING_MODES:
            raise ConfigError(f"Pad padding_mode='{padding_mode}' is unknown. Known: {', '.join(PADDING_MODES)}.")
        if size is None and size_divisor is None and not pad_to_square or pad_to_square and size is not None:
            raise ConfigError('Pad needs size (width, height), size_divisor or pad_to_square; size and pad_to_square exclude each other.')
        self.size, self.size_divisor, self.pad_to_square = size and tuple(size), size_divisor, pad_to_square
        self.pad_val = pad_val if isinstance(pad_val, dict) else dict(img=pad_val, seg=255)
        check_keys(self.pad_val, dict.fromkeys(('img', 'seg', 'masks'), PadValue), 'pad_val')
        self.padding_mode = padding_mode

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        height, width = results['img'].shape[:2]
        target_w, target_h = self.size or ((max(height, width),) * 2 if self.pad_to_square else (width, height))
        if self.size_divisor:
            target_w, target_h = (math.ceil(s / self.size_divisor) * self.size_divisor for s in (target_w, target_h))
        target = max(target_h, height), max(target_w, width)
        results['img'] = padded(results['img'], target, self.pad_val.get('img', 0), self.padding_mode)
        results.update(img_shape=target, pad_shape=target, pad_fixed_size=self.size, pad_size_divisor=self.size_divisor)
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'].pad(target, pad_val=self.pad_val.get('masks', 0))
        if 'gt_seg_map' in results:
            results['gt_seg_map'] = padded(results['gt_seg_map'], target, self.pad_val.get('seg', 255), self.padding_mode)
        return results


def padded(image: np.ndarray, size: tuple[int, int], value: float | tuple, mode: str = 'constant') -> np.ndarray:
    """Pad (H, W[, C]) to ``size`` (height, width), with the image at the top left; ``mode``: see Pad."""
    if mode != 'constant':
        return cv2.copyMakeBorder(image, 0, size[0] - image.shape[0], 0, size[1] - image.shape[1], PADDING_MODES[mode])
    out = np.empty((*size, *image.shape[2:]), image.dtype)
    out[...] = value
    out[:image.shape[0], :image.shape[1]] = image
    return out
