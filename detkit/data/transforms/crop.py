"""Crops, and filters for small objects."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detkit.data.transforms.base import BaseTransform
from detkit.data.transforms.geometry import clip_boxes_, record_
from detkit.registry import TRANSFORMS, ConfigError

PER_OBJECT = ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags', 'gt_masks')
TRIES = 50          # windows that MinIoURandomCrop tries per minimum IoU
CROP_TYPES = ('absolute', 'absolute_range', 'relative', 'relative_range')


def keep_objects(results: dict[str, Any], keep: np.ndarray) -> dict[str, Any]:
    """Keep only the objects selected by ``keep`` (n,) bool, in every field that has one entry per object."""
    for key in PER_OBJECT:
        if key in results:
            results[key] = results[key][keep]
    return results


@TRANSFORMS.register_module()
class RandomCrop(BaseTransform):
    """Crop a random window, drawn uniformly; objects completely outside the window are dropped.

    Args:
        crop_size: as in MMDetection, by ``crop_type``. 'absolute': (width, height) of the window in pixels, at most the image size.
            'absolute_range': (min, max) of each side in pixels; sides are drawn independently. 'relative': (width, height) as fractions
            of the image. 'relative_range': the minimum (height, width) as fractions of the image; the maximum is the image.
        allow_negative_crop: keep a window without objects; otherwise return None, so another sample is drawn.
        recompute_bbox: compute boxes from the cropped masks. bbox_clip_border: clip boxes to the window.
    """

    random = True

    def __init__(self, crop_size: tuple[float, float], crop_type: str = 'absolute', allow_negative_crop: bool = False,
                 recompute_bbox: bool = False, bbox_clip_border: bool = True) -> None:
        if crop_type not in CROP_TYPES:
            raise ConfigError(f"RandomCrop crop_type='{crop_type}' is unknown. Known: {', '.join(CROP_TYPES)}.")
        whole = crop_type.startswith('absolute')
        if min(crop_size) <= 0 or whole and not all(isinstance(s, int) for s in crop_size) or not whole and max(crop_size) > 1:
            raise ConfigError(f'RandomCrop crop_size={crop_size} does not fit crop_type={crop_type}: two '
                              f'{"whole numbers of pixels" if whole else "shares in (0, 1]"} are needed.')
        if crop_type == 'absolute_range' and crop_size[0] > crop_size[1]:
            raise ConfigError(f'RandomCrop crop_size={crop_size} must be (min, max) of the sides for crop_type=absolute_range.')
        self.crop_size, self.crop_type, self.allow_negative_crop = tuple(crop_size), crop_type, allow_negative_crop
        self.recompute_bbox, self.bbox_clip_border = recompute_bbox, bbox_clip_border

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        rng, (height, width) = results['rng'], results['img'].shape[:2]
        h, w = self.window_size(rng, height, width)
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        return cropped(results, (x, y, x + w, y + h), self.allow_negative_crop, self.recompute_bbox, self.bbox_clip_border)

    def window_size(self, rng: np.random.Generator, height: int, width: int) -> tuple[int, int]:
        a, b = self.crop_size
        if self.crop_type == 'absolute':
            return min(b, height), min(a, width)
        if self.crop_type == 'absolute_range':
            return tuple(int(rng.integers(min(side, a), min(side, b) + 1)) for side in (height, width))
        if self.crop_type == 'relative_range':
            a, b = (share + rng.random() * (1 - share) for share in (a, b))
        else:
            a, b = b, a
        return max(int(height * a + 0.5), 1), max(int(width * b + 0.5), 1)


def cropped(results: dict[str, Any], window: tuple[int, int, int, int], allow_negative: bool = True,
            recompute_bbox: bool = False, clip: bool = True) -> dict[str, Any] | None:
    """Crop to ``window`` (x1, y1, x2, y2), integer pixels; None if no object is left and ``allow_negative`` is False."""
    x1, y1, x2, y2 = window
    results['img'] = np.ascontiguousarray(results['img'][y1:y2, x1:x2])
    results['img_shape'] = size = results['img'].shape[:2]
    record_(results, [[1, 0, -x1], [0, 1, -y1], [0, 0, 1]])
    if 'gt_seg_map' in results:
        results['gt_seg_map'] = np.ascontiguousarray(results['gt_seg_map'][y1:y2, x1:x2])
    if 'gt_bboxes' not in results:
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'].crop(np.asarray(window))
        return results
    boxes = results['gt_bboxes'] - np.array([x1, y1, x1, y1], np.float32)
    inside = boxes.copy()
    clip_boxes_(inside, size)
    keep = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    if not keep.any() and not allow_negative:
        return None
    results['gt_bboxes'] = inside if clip else boxes
    keep_objects(results, keep)
    if 'gt_masks' in results:
        results['gt_masks'] = results['gt_masks'].crop(np.asarray(window))
        if recompute_bbox:
            results['gt_bboxes'] = results['gt_masks'].get_bboxes()
    return results


@TRANSFORMS.register_module()
class MinIoURandomCrop(BaseTransform):
    """Crop a random window that overlaps all objects by a minimum IoU (SSD, https://arxiv.org/abs/1512.02325, Sec. 2.2).

    The minimum IoU between the window and every box is drawn from ``min_ious``, 0 (no minimum) or 1 (keep the whole image); a new value
    is drawn until a window is found.
    The window's sides are at least ``min_crop_size`` of the image's sides; its aspect ratio is between 1:2 and 2:1. Objects are kept
    if their centre is inside; the window must contain at least one.
    """

    random = True

    def __init__(self, min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size: float = 0.3,
                 bbox_clip_border: bool = True) -> None:
        if not 0 < min_crop_size <= 1:
            raise ConfigError(f'MinIoURandomCrop min_crop_size={min_crop_size} is a share of the image, in (0, 1].')
        self.min_ious, self.min_crop_size, self.bbox_clip_border = tuple(min_ious), min_crop_size, bbox_clip_border

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        rng, boxes = results['rng'], results['gt_bboxes']
        while True:
            least = rng.choice((1, *self.min_ious, 0))
            if least == 1:
                return results
            for _ in range(TRIES):
                window = self.window(rng, *results['img'].shape[:2])
                if window is None or len(boxes) and window_ious(window, boxes).min() < least:
                    continue
                centers = (boxes[:, :2] + boxes[:, 2:]) / 2
                inside = ((centers > window[:2]) & (centers < window[2:])).all(1)
                if inside.any() or not len(boxes):
                    return cropped(keep_objects(results, inside), tuple(window), clip=self.bbox_clip_border)

    def window(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray | None:
        """Return a random window, (4,) int64 xyxy; None if it is too narrow."""
        w, h = rng.uniform(self.min_crop_size * width, width), rng.uniform(self.min_crop_size * height, height)
        if not 0.5 <= h / w <= 2:
            return None
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        window = np.array([x, y, x + w, y + h]).astype(np.int64)
        return window if (window[2:] > window[:2]).all() else None


def window_ious(window: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the IoU (n,) of ``window`` (4,) with each of ``boxes`` (n, 4)."""
    overlap = (np.minimum(boxes[:, 2:], window[2:]) - np.maximum(boxes[:, :2], window[:2])).clip(0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (window[2:] - window[:2]).prod() - overlap
    return overlap / np.maximum(areas, 1e-6)


@TRANSFORMS.register_module()
class FilterAnnotations(BaseTransform):
    """Drop small objects.

    ``by_box``: drop objects whose box has a side of at most ``min_gt_bbox_wh`` (width, height) pixels. ``by_mask``: drop objects whose
    mask has fewer than ``min_gt_mask_area`` pixels. ``keep_empty``: return None if no object is left, so another sample is drawn; False
    keeps the image.
    """

    def __init__(self, min_gt_bbox_wh: tuple[float, float] = (1, 1), min_gt_mask_area: float = 1, by_box: bool = True,
                 by_mask: bool = False, keep_empty: bool = True) -> None:
        if not (by_box or by_mask):
            raise ConfigError('FilterAnnotations needs by_box or by_mask.')
        self.min_gt_bbox_wh, self.min_gt_mask_area = tuple(min_gt_bbox_wh), min_gt_mask_area
        self.by_box, self.by_mask, self.keep_empty = by_box, by_mask, keep_empty

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        missing = [key for key, is_used in (('gt_bboxes', True), ('gt_masks', self.by_mask)) if is_used and key not in results]
        if missing:
            raise ConfigError(f"FilterAnnotations by_box={self.by_box}, by_mask={self.by_mask} needs '{missing[0]}'. Set "
                              f"{'with_bbox' if missing == ['gt_bboxes'] else 'with_mask'}=True of LoadAnnotations.")
        boxes = results['gt_bboxes']
        keep = np.ones(len(boxes), bool)
        if self.by_box:
            keep &= (boxes[:, 2] - boxes[:, 0] > self.min_gt_bbox_wh[0]) & (boxes[:, 3] - boxes[:, 1] > self.min_gt_bbox_wh[1])
        if self.by_mask:
            keep &= results['gt_masks'].areas >= self.min_gt_mask_area
        if len(boxes) and not keep.any() and self.keep_empty:
            return None
        return keep_objects(results, keep)
