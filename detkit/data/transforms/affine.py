"""Affine transforms of image, boxes and masks together: shear, rotation, shift.

A matrix maps continuous coordinates, in which pixel (0, 0) covers the square from (0, 0) to (1, 1). OpenCV's origin is the centre of
that pixel, so the matrix is converted for images and bitmaps: without this half pixel, masks would not match their boxes.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from detkit.data.transforms.base import BaseTransform
from detkit.data.transforms.crop import keep_objects
from detkit.data.transforms.geometry import clip_boxes_, record_
from detkit.opencv import cv2
from detkit.registry import TRANSFORMS, ConfigError
from detkit.structures.masks import INTERPOLATIONS, BitmapMasks, PolygonMasks

HIGHEST_LEVEL = 10     # of AutoAugment's magnitude levels


def shift(x: float, y: float) -> np.ndarray:
    """Return the translation matrix (3, 3) by (x, y) pixels."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def pixel_matrix(matrix: np.ndarray) -> np.ndarray:
    """Convert ``matrix`` (3, 3) to (2, 3) between pixel centres, OpenCV's convention."""
    return (shift(-0.5, -0.5) @ matrix @ shift(0.5, 0.5))[:2]


def warp_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map boxes (n, 4) xyxy to the smallest axis-aligned boxes (n, 4) around the mapped corners. ``matrix`` (3, 3), affine."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).astype(np.float64) @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)


def warp_masks(masks: BitmapMasks | PolygonMasks, matrix: np.ndarray, size: tuple[int, int]) -> BitmapMasks | PolygonMasks:
    """Map masks into an image of ``size`` (height, width); parts outside are cut off. ``matrix`` (3, 3), affine."""
    return masks.warp(matrix[:2] if isinstance(masks, PolygonMasks) else pixel_matrix(matrix), size)


def warped(results: dict[str, Any], matrix: np.ndarray, size: tuple[int, int] | None = None, border: float | Sequence[float] = 114,
           seg_border: int = 255, interpolation: str = 'bilinear', clip: bool = True) -> dict[str, Any]:
    """Map image, boxes, masks and segmentation map by an affine ``matrix`` (3, 3) into an image of ``size`` (height, width; default: same).

    Objects completely outside are dropped. ``clip``: clip boxes to the image.
    """
    size = size or results['img'].shape[:2]
    inner = pixel_matrix(matrix)
    channels = results['img'].shape[2] if results['img'].ndim == 3 else 1
    value = [border] * channels if isinstance(border, (int, float)) else list(border)
    results['img'] = cv2.warpAffine(results['img'], inner, size[::-1], flags=INTERPOLATIONS[interpolation], borderValue=value)
    results['img_shape'] = size
    record_(results, matrix)
    if 'gt_seg_map' in results:
        results['gt_seg_map'] = cv2.warpAffine(results['gt_seg_map'], inner, size[::-1], flags=cv2.INTER_NEAREST, borderValue=seg_border)
    if 'gt_masks' in results:
        results['gt_masks'] = warp_masks(results['gt_masks'], matrix, size)
    if 'gt_bboxes' in results:
        boxes = warp_boxes(results['gt_bboxes'], matrix)
        inside = boxes.copy()
        clip_boxes_(inside, size)
        results['gt_bboxes'] = inside if clip else boxes
        keep_objects(results, (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1]))
    return results


@TRANSFORMS.register_module()
class RandomAffine(BaseTransform):
    """Rotate, scale, shear and shift at random, about the image origin (YOLOX, https://arxiv.org/abs/2107.08430).

    Args:
        max_rotate_degree, max_shear_degree: maximum absolute values, degrees.
        max_translate_ratio: maximum shift, as a fraction of the output size.
        scaling_ratio_range: (min, max) of the scale factor.
        border: (horizontal, vertical) pixels added to each side of the output; negative values crop the centre of a mosaic.
        border_val: BGR value outside the image. bbox_clip_border: clip boxes to the output.
    """

    random = True

    def __init__(self, max_rotate_degree: float = 10.0, max_translate_ratio: float = 0.1,
                 scaling_ratio_range: tuple[float, float] = (0.5, 1.5), max_shear_degree: float = 2.0, border: tuple[int, int] = (0, 0),
                 border_val: tuple[int, int, int] = (114, 114, 114), bbox_clip_border: bool = True) -> None:
        if not 0 <= max_translate_ratio <= 1 or not 0 < scaling_ratio_range[0] <= scaling_ratio_range[1]:
            raise ConfigError(f'RandomAffine needs max_translate_ratio in [0, 1] and a rising, positive scaling_ratio_range; given '
                              f'{max_translate_ratio} and {tuple(scaling_ratio_range)}.')
        self.max_rotate_degree, self.max_translate_ratio = max_rotate_degree, max_translate_ratio
        self.scaling_ratio_range, self.max_shear_degree = tuple(scaling_ratio_range), max_shear_degree
        self.border, self.border_val, self.bbox_clip_border = tuple(border), tuple(border_val), bbox_clip_border

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        height, width = (side + 2 * more for side, more in zip(results['img'].shape[:2], self.border[::-1]))
        if min(height, width) < 1:
            raise ConfigError(f'RandomAffine border={self.border} leaves nothing of an image of {results["img"].shape[1::-1]} '
                              f'(width, height).')
        return warped(results, self.matrix(results['rng'], height, width), (height, width), self.border_val, clip=self.bbox_clip_border)

    def matrix(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """Return the matrix (3, 3): scale first, then rotate, shear, shift."""
        angle = math.radians(rng.uniform(-self.max_rotate_degree, self.max_rotate_degree))
        scale = rng.uniform(*self.scaling_ratio_range)
        x, y = (math.tan(math.radians(a)) for a in rng.uniform(-self.max_shear_degree, self.max_shear_degree, 2))
        dx, dy = rng.uniform(-self.max_translate_ratio, self.max_translate_ratio, 2) * (width, height)
        cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
        turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        return shift(dx, dy) @ np.array([[1, x, 0], [y, 1, 0], [0, 0, 1]]) @ turn


@TRANSFORMS.register_module()
class RandomShift(BaseTransform):
    """With probability ``prob``, shift by up to ``max_shift_px`` pixels in each direction; new pixels are black.

    Objects whose visible box has a side of at most ``filter_thr_px`` are dropped; if no object is left, the image is not changed
    (YOLOF, https://arxiv.org/abs/2103.09460).
    """

    random = True

    def __init__(self, prob: float = 0.5, max_shift_px: int = 32, filter_thr_px: int = 1) -> None:
        if not 0 <= prob <= 1 or max_shift_px < 0:
            raise ConfigError(f'RandomShift needs prob in [0, 1] and max_shift_px of at least 0, given {prob} and {max_shift_px}.')
        self.prob, self.max_shift_px, self.filter_thr_px = prob, max_shift_px, filter_thr_px

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        rng = results['rng']
        if rng.random() >= self.prob:
            return results
        x, y = (int(v) for v in rng.integers(-self.max_shift_px, self.max_shift_px + 1, 2))
        boxes = results['gt_bboxes'] + np.array([x, y, x, y], np.float32)
        clip_boxes_(boxes, results['img'].shape[:2])
        keep = ((boxes[:, 2:] - boxes[:, :2]) > self.filter_thr_px).all(1)
        return warped(keep_objects(results, keep), shift(x, y), border=0) if keep.any() else results


class Geometric:
    """A geometric AutoAugment operation (https://arxiv.org/abs/1906.11172, Sec. 3.1); subclasses define ``matrix``.

    Applied with probability ``prob``. ``level`` (0 to 10) selects a magnitude between ``min_mag`` and ``max_mag``, rounded to one decimal;
    None: random. As in MMDetection, ``reversal_prob`` is the probability that the sign stays positive: with 0 it is always negative. The
    border values are for image, masks and ``gt_seg_map``. ``limits``: (min, max) of valid magnitudes.
    """

    random = True
    limits = (0.0, 90.0)
    __repr__ = BaseTransform.__repr__

    def __init__(self, prob: float = 1.0, level: int | None = None, min_mag: float = 0.0, max_mag: float = 30.0, reversal_prob: float = 0.5,
                 img_border_value: float | tuple = 128, mask_border_value: int = 0, seg_ignore_label: int = 255,
                 interpolation: str = 'bilinear') -> None:
        check_operation(type(self).__name__, prob, level, min_mag, max_mag, self.limits)
        if not 0 <= reversal_prob <= 1:
            raise ConfigError(f'{type(self).__name__} reversal_prob={reversal_prob} must lie in [0, 1].')
        if mask_border_value != 0:
            raise ConfigError(f'{type(self).__name__} mask_border_value={mask_border_value} is not offered: no object lies outside.')
        self.prob, self.level, self.min_mag, self.max_mag = prob, level, min_mag, max_mag
        self.reversal_prob, self.img_border_value, self.seg_ignore_label = reversal_prob, img_border_value, seg_ignore_label
        self.interpolation = interpolation

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        rng = results['rng']
        if rng.random() >= self.prob:
            return results
        amount = magnitude(rng, self.level, self.min_mag, self.max_mag)
        amount = -amount if rng.random() >= self.reversal_prob else amount
        matrix = self.matrix(amount, *results['img'].shape[:2])
        return warped(results, matrix, None, self.img_border_value, self.seg_ignore_label, self.interpolation)

    def matrix(self, amount: float, height: int, width: int) -> np.ndarray:
        raise NotImplementedError


def magnitude(rng: np.random.Generator, level: int | None, low: float, high: float) -> float:
    """Return the magnitude of ``level`` (None: random), rounded to one decimal as in MMDetection."""
    return round(low + (high - low) * (rng.random() if level is None else level / HIGHEST_LEVEL), 1)


def check_operation(name: str, prob: float, level: int | None, low: float, high: float, limits: tuple[float, float]) -> None:
    if not 0 <= prob <= 1 or level is not None and not 0 <= level <= HIGHEST_LEVEL or not limits[0] <= low <= high <= limits[1]:
        raise ConfigError(f'{name} needs prob in [0, 1], level from 0 to {HIGHEST_LEVEL} or None, and min_mag at most max_mag, both in '
                          f'[{limits[0]}, {limits[1]}]; given {prob}, {level}, {low}, {high}.')


@TRANSFORMS.register_module()
class ShearX(Geometric):
    """Shear along x; magnitudes are degrees."""

    def matrix(self, amount: float, height: int, width: int) -> np.ndarray:
        return np.array([[1, math.tan(math.radians(amount)), 0], [0, 1, 0], [0, 0, 1]], np.float64)


@TRANSFORMS.register_module()
class ShearY(Geometric):
    """Shear along y; magnitudes are degrees."""

    def matrix(self, amount: float, height: int, width: int) -> np.ndarray:
        return np.array([[1, 0, 0], [math.tan(math.radians(amount)), 1, 0], [0, 0, 1]], np.float64)


@TRANSFORMS.register_module()
class Rotate(Geometric):
    """Rotate clockwise about the centre; magnitudes are degrees."""

    limits = (0.0, 180.0)

    def matrix(self, amount: float, height: int, width: int) -> np.ndarray:
        cos, sin = math.cos(math.radians(amount)), math.sin(math.radians(amount))
        return shift(width / 2, height / 2) @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ shift(-width / 2, -height / 2)


@TRANSFORMS.register_module()
class TranslateX(Geometric):
    """Shift right by whole pixels; magnitudes are fractions of the width."""

    limits = (0.0, 1.0)

    def __init__(self, *args: Any, max_mag: float = 0.1, **options: Any) -> None:
        super().__init__(*args, max_mag=max_mag, **options)

    def matrix(self, amount: float, height: int, width: int) -> np.ndarray:
        return shift(int(amount * width), 0)


@TRANSFORMS.register_module()
class TranslateY(Geometric):
    """Shift down by whole pixels; magnitudes are fractions of the height."""

    limits = (0.0, 1.0)

    def __init__(self, *args: Any, max_mag: float = 0.1, **options: Any) -> None:
        super().__init__(*args, max_mag=max_mag, **options)

    def matrix(self, amount: float, height: int, width: int) -> np.ndarray:
        return shift(0, int(amount * height))
