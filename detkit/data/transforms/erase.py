"""Parts of the image that are blotted out."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detkit.data.transforms.base import BaseTransform
from detkit.data.transforms.crop import keep_objects
from detkit.registry import TRANSFORMS, ConfigError
from detkit.structures.masks import BitmapMasks, PolygonMasks


def bounds(value: float | Sequence[float], name: str) -> tuple[float, float]:
    """A number as a range of one value; a pair must rise."""
    low, high = (value, value) if isinstance(value, (int, float)) else tuple(value)
    if not 0 <= low <= high:
        raise ConfigError(f'{name}={value} must be a number of at least 0, or a rising pair of them.')
    return low, high


@TRANSFORMS.register_module()
class CutOut(BaseTransform):
    """Rectangles of ``fill_in`` (BGR); boxes and masks stay as they are (https://arxiv.org/abs/1708.04552).

    ``n_holes``: how many, or the least and the most. Their sizes are drawn from ``cutout_shape``, one (width, height) in pixels or a
    list of them, or from ``cutout_ratio``, the same in shares of the image. They begin anywhere, and end at the image's border.
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
    """Patches are erased from image and masks; objects of which they cover too much are dropped (https://arxiv.org/abs/1708.04896).

    Args:
        n_patches: how many, or the least and the most.
        ratio: side of a patch as a share of the image's, or the least and the largest. squared: one share for both sides.
        bbox_erased_thr: an object is kept while the patches cover less than this share of its box (patches that overlap count twice).
        img_border_value, mask_border_value, seg_ignore_label: what is written into image, bitmaps, ``gt_seg_map``.
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
        """(k, 4) int64 xyxy, inside the image."""
        found = []
        for _ in range(int(rng.integers(self.n_patches[0], self.n_patches[1] + 1))):
            a = rng.uniform(*self.ratio)
            b = a if self.squared else rng.uniform(*self.ratio)
            h, w = int(height * a), int(width * b)
            x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            found.append([x, y, x + w, y + h])
        return np.array(found, np.int64).reshape(-1, 4)


def covered(boxes: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """(n,) share of each box (n, 4) that the patches (k, 4) cover, one added to the other."""
    sides = np.minimum(boxes[:, None, 2:], patches[None, :, 2:]) - np.maximum(boxes[:, None, :2], patches[None, :, :2])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return sides.clip(0).prod(-1).sum(-1) / np.maximum(areas, 1e-7)


def painted(image: np.ndarray, patches: np.ndarray, value: float | tuple) -> np.ndarray:
    """A copy with ``value`` in each patch (k, 4) xyxy."""
    image = image.copy()
    for x1, y1, x2, y2 in patches:
        image[y1:y2, x1:x2] = value
    return image
