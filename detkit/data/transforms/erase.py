"""Transforms that erase parts of the image."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detkit.data.transforms.base import BaseTransform
from detkit.data.transforms.crop import keep_objects
from detkit.registry import TRANSFORMS, ConfigError
from detkit.structures.masks import BitmapMasks, PolygonMasks


def bounds(value: float | Sequence[float], name: str) -> tuple[float, float]:
    """Return a range: a number becomes (number, number); a pair must not decrease."""
    low, high = (value, value) if isinstance(value, (int, float)) else tuple(value)
    if not 0 <= low <= high:
        raise ConfigError(f'{name}={value} must be a number of at least 0, or a rising pair of them.')
    return low, high


@TRANSFORMS.register_module()
class CutOut(BaseTransform):
    """Fill random rectangles with ``fill_in`` (BGR); boxes and masks do not change (https://arxiv.org/abs/1708.04552).

    ``n_holes``: number of rectangles, or (min, max). Sizes are drawn from ``cutout_shape``, a (width, height) in pixels or a list of them,
    or from ``cutout_ratio``, the same as fractions of the image. The top-left corner is anywhere; rectangles are clipped to the image.
    """

    random = True

    def __init__(self, n_holes: int | tuple[int, int], cutout_shape: tuple | list[tuple] | None = None,
                 cutout_ratio: tuple | list[tuple] | None = None, fill_in: tuple[float, float, float] = (0, 0, 0)) -> None:
        if (cutout_shape is None) == (cutout_ratio is None):
            raise ConfigError('CutOut needs one of cutout_shape (width, height; pixels) and cutout_ratio (shares of the image).')
        self.n_holes, self.fill_in, self.relative = bounds(n_holes, 'CutOut n_holes'), tuple(fill_in), cutout_shape is None
        given = cutout_ratio if self.relative else cutout_shape
        self.sizes = [tuple(s) for s in ([given] if isinstance(given[0], (int, float)) else given)]

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        rng, image = results['rng'], results['img'].copy()
        height, width = image.shape[:2]
        for _ in range(int(rng.integers(self.n_holes[0], self.n_holes[1] + 1))):
            x, y = int(rng.integers(width)), int(rng.integers(height))
            w, h = self.sizes[int(rng.integers(len(self.sizes)))]
            w, h = (int(w * width), int(h * height)) if self.relative else (w, h)
            image[y:y + h, x:x + w] = self.fill_in
        results['img'] = image
        return results


@TRANSFORMS.register_module()
class RandomErasing(BaseTransform):
    """Erase patches of image and masks; drop objects that are mostly covered (https://arxiv.org/abs/1708.04896).

    Args:
        n_patches: number of patches, or (min, max).
        ratio: side of a patch as a fraction of the image side, or (min, max). squared: use the same fraction for both sides.
        bbox_erased_thr: keep an object if patches cover less than this fraction of its box (overlaps of patches count twice).
        img_border_value, mask_border_value, seg_ignore_label: fill values of image, bitmaps and ``gt_seg_map``.
    """

    random = True

    def __init__(self, n_patches: int | tuple[int, int], ratio: float | tuple[float, float], squared: bool = True,
                 bbox_erased_thr: float = 0.9, img_border_value: float | tuple = 128, mask_border_value: int = 0,
                 seg_ignore_label: int = 255) -> None:
        self.n_patches, self.ratio = bounds(n_patches, 'RandomErasing n_patches'), bounds(ratio, 'RandomErasing ratio')
        if self.ratio[1] > 1:
            raise ConfigError(f'RandomErasing ratio={ratio} is a share of the image, at most 1.')
        self.squared, self.bbox_erased_thr, self.img_border_value = squared, bbox_erased_thr, img_border_value
        self.mask_border_value, self.seg_ignore_label = mask_border_value, seg_ignore_label

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        patches = self.patches(results['rng'], *results['img'].shape[:2])
        if 'gt_bboxes' in results:
            keep_objects(results, covered(results['gt_bboxes'], patches) < self.bbox_erased_thr)
        masks = results.get('gt_masks')
        if isinstance(masks, PolygonMasks):
            raise ConfigError('RandomErasing cuts holes into masks, which polygons cannot have. Set poly2mask=True of LoadAnnotations.')
        results['img'] = painted(results['img'], patches, self.img_border_value)
        if masks is not None:
            turned = painted(results['gt_masks'].masks.transpose(1, 2, 0), patches, self.mask_border_value)
            results['gt_masks'] = BitmapMasks(np.ascontiguousarray(turned.transpose(2, 0, 1)), masks.height, masks.width)
        if 'gt_seg_map' in results:
            results['gt_seg_map'] = painted(results['gt_seg_map'], patches, self.seg_ignore_label)
        return results

    def patches(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """Return random patches, (k, 4) int64 xyxy, inside the image."""
        found = []
        for _ in range(int(rng.integers(self.n_patches[0], self.n_patches[1] + 1))):
            a = rng.uniform(*self.ratio)
            b = a if self.squared else rng.uniform(*self.ratio)
            h, w = int(height * a), int(width * b)
            x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            found.append([x, y, x + w, y + h])
        return np.array(found, np.int64).reshape(-1, 4)


def covered(boxes: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Return the fraction of each box (n, 4) that the patches (k, 4) cover, (n,), summed over patches."""
    sides = np.minimum(boxes[:, None, 2:], patches[None, :, 2:]) - np.maximum(boxes[:, None, :2], patches[None, :, :2])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return sides.clip(0).prod(-1).sum(-1) / np.maximum(areas, 1e-7)


def painted(image: np.ndarray, patches: np.ndarray, value: float | tuple) -> np.ndarray:
    """Return a copy with each patch (k, 4) xyxy set to ``value``."""
    image = image.copy()
    for x1, y1, x2, y2 in patches:
        image[y1:y2, x1:x2] = value
    return image
