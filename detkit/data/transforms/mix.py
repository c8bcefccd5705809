"""Transforms that combine several samples into one.

Other samples come from ``results['partner']``: random samples of the whole dataset, after the transforms before this one. No state
is kept between samples, so a sample does not depend on the samples before it or on its worker. MMDetection's ``Cached...``
transforms draw from a queue of recent samples instead; here ``max_cached_images`` limits the decoded images that a worker caches, and
``random_pop`` (which image leaves the queue) has no effect; both of its values are accepted.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from detkit.data.transforms.affine import warp_masks
from detkit.data.transforms.base import BaseTransform
from detkit.data.transforms.crop import PER_OBJECT, keep_objects
from detkit.data.transforms.geometry import clip_boxes_, flipped, padded
from detkit.opencv import cv2
from detkit.registry import TRANSFORMS
from detkit.structures.masks import BitmapMasks, PolygonMasks


def partner_of(results: dict[str, Any]) -> dict[str, Any]:
    """Return a random sample of the dataset."""
    for _ in range(100):
        other = results['partner'](results['rng'].integers(results['num_samples']))
        if other is not None:
            return other
    raise ValueError('100 samples drawn to be mixed were all dropped by the pipeline. Look at the transforms before the mixing one.')


def joined(parts: list[dict[str, Any]], results: dict[str, Any]) -> dict[str, Any]:
    """Return ``results`` with the objects of all ``parts``, whose boxes and masks are already in its coordinates."""
    for key in PER_OBJECT:
        if key in results:
            values = [p[key] for p in parts]
            several = isinstance(values[0], (BitmapMasks, PolygonMasks))
            results[key] = type(values[0]).cat(values) if several else np.concatenate(values)
    return results


def visible(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (n,) bool: whether a box overlaps an image of ``size`` (height, width)."""
    return (boxes[:, 0] < size[1]) & (boxes[:, 1] < size[0]) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)


def moved(part: dict[str, Any], size: tuple[int, int], dx: int, dy: int, factor: float = 1.) -> dict[str, Any]:
    """Resize the objects of ``part`` by ``factor``, then shift them into an image of ``size`` (height, width).

    As in MMDetection, ``factor`` is the requested one, not the factor of the image sides, which are rounded down to whole pixels.
    """
    out = {k: part[k] for k in PER_OBJECT if k in part}
    if 'gt_bboxes' in out:
        out['gt_bboxes'] = out['gt_bboxes'] * np.float32(factor) + np.array([dx, dy, dx, dy], np.float32)
    if 'gt_masks' in out:
        out['gt_masks'] = warp_masks(out['gt_masks'], np.array([[factor, 0, dx], [0, factor, dy], [0, 0, 1]], np.float64), size)
    return out


@TRANSFORMS.register_module(name=['Mosaic', 'CachedMosaic'])
class Mosaic(BaseTransform):
    """Four images around a random centre, on a canvas twice ``img_scale`` (width, height) (YOLOv4, https://arxiv.org/abs/2004.10934).

    Each image is resized to fit ``img_scale`` and placed with one corner at the centre. The centre is at ``center_ratio_range`` times
    ``img_scale`` from the canvas origin. ``prob``: probability that a sample becomes a mosaic.
    """

    random = True

    def __init__(self, img_scale: tuple[int, int] = (640, 640), center_ratio_range: tuple[float, float] = (0.5, 1.5),
                 bbox_clip_border: bool = True, pad_val: float = 114.0, prob: float = 1.0, max_cached_images: int = 40,
                 random_pop: bool = True) -> None:
        self.img_scale, self.center_ratio_range = tuple(img_scale), tuple(center_ratio_range)
        self.bbox_clip_border, self.pad_val, self.prob = bbox_clip_border, pad_val, prob
        self.max_cached_images, self.random_pop = max_cached_images, bool(random_pop)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        rng = results['rng']
        if rng.random() >= self.prob:
            return results
        width, height = self.img_scale
        size = 2 * height, 2 * width
        center = int(rng.uniform(*self.center_ratio_range) * width), int(rng.uniform(*self.center_ratio_range) * height)
        canvas = np.full((*size, *results['img'].shape[2:]), self.pad_val, results['img'].dtype)
        parts = [self.place(canvas, part, center, corner)
                 for corner, part in enumerate([results, *(partner_of(results) for _ in range(3))])]
        joined(parts, results)
        results.update(img=canvas, img_shape=size)
        if 'gt_bboxes' not in results:
            return results
        seen = visible(results['gt_bboxes'], size)
        if self.bbox_clip_border:
            clip_boxes_(results['gt_bboxes'], size)
        return keep_objects(results, seen)

    def place(self, canvas: np.ndarray, part: dict[str, Any], center: tuple[int, int], corner: int) -> dict[str, Any]:
        """Draw ``part`` on the canvas; return its objects in canvas coordinates. ``corner``: 0 and 2 left, 1 and 3 right; 0 and 1 top."""
        image = part['img']
        factor = min(self.img_scale[1] / image.shape[0], self.img_scale[0] / image.shape[1])
        size = max(int(image.shape[1] * factor), 1), max(int(image.shape[0] * factor), 1)
        if size != image.shape[1::-1]:
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        height, width = image.shape[:2]
        x = center[0] - width if corner % 2 == 0 else center[0]
        y = center[1] - height if corner < 2 else center[1]
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + width, canvas.shape[1]), min(y + height, canvas.shape[0])
        canvas[y1:y2, x1:x2] = image[y1 - y:y2 - y, x1 - x:x2 - x]
        return moved(part, canvas.shape[:2], x, y, factor)


@TRANSFORMS.register_module(name=['MixUp', 'CachedMixUp'])
class MixUp(BaseTransform):
    """Average this image with another one and join the objects of both (YOLOX, https://arxiv.org/abs/2107.08430, Sec. 2.1).

    The other image is resized to fit ``img_scale`` (width, height), scaled by a random factor in ``ratio_range``, flipped, and randomly
    cropped to the size of this image. As in MMDetection, ``flip_ratio`` is the probability that it is not flipped.
    """

    random = True

    def __init__(self, img_scale: tuple[int, int] = (640, 640), ratio_range: tuple[float, float] = (0.5, 1.5), flip_ratio: float = 0.5,
                 pad_val: float | tuple[float, ...] = 114.0, max_iters: int = 15, bbox_clip_border: bool = True, prob: float = 1.0,
                 max_cached_images: int = 20, random_pop: bool = True) -> None:
        self.img_scale, self.ratio_range, self.flip_ratio = tuple(img_scale), tuple(ratio_range), flip_ratio
        self.pad_val, self.max_iters, self.bbox_clip_border = pad_val, max_iters, bbox_clip_border
        self.prob, self.max_cached_images, self.random_pop = prob, max_cached_images, bool(random_pop)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        rng = results['rng']
        if rng.random() >= self.prob:
            return results
        other = self.other(results)
        if other is None:
            return results
        other = self.scaled(other, rng.uniform(*self.ratio_range))
        if rng.random() > self.flip_ratio:
            other = flipped(other, 'horizontal')
        height, width = size = results['img'].shape[:2]
        canvas = padded(other['img'], (max(height, other['img'].shape[0]), max(width, other['img'].shape[1])), self.pad_val)
        y, x = int(rng.integers(canvas.shape[0] - height + 1)), int(rng.integers(canvas.shape[1] - width + 1))
        mixed = results['img'].astype(np.float32) * 0.5 + canvas[y:y + height, x:x + width].astype(np.float32) * 0.5
        part = moved(other, size, -x, -y)
        if self.bbox_clip_border:
            clip_boxes_(part['gt_bboxes'], size)
        joined([results, part], results)
        results.update(img=mixed.astype(results['img'].dtype), img_shape=size)
        return keep_objects(results, visible(results['gt_bboxes'], size))

    def other(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Return a sample with objects; None if ``max_iters`` draws found none."""
        for _ in range(self.max_iters):
            other = partner_of(results)
            if len(other['gt_bboxes']):
                return other
        return None

    def scaled(self, part: dict[str, Any], jitter: float) -> dict[str, Any]:
        """Resize to fit ``img_scale``, pad, then scale by ``jitter``, in float64 and truncated, as in MMDetection."""
        image = part['img']
        factor = min(self.img_scale[1] / image.shape[0], self.img_scale[0] / image.shape[1])
        fit = max(int(image.shape[1] * factor), 1), max(int(image.shape[0] * factor), 1)
        canvas = padded(cv2.resize(image, fit).astype(np.float64), (self.img_scale[1], self.img_scale[0]), self.pad_val)
        size = max(int(canvas.shape[1] * jitter), 1), max(int(canvas.shape[0] * jitter), 1)
        out = {**part, **moved(part, size[::-1], 0, 0, factor * jitter), 'img': cv2.resize(canvas, size).astype(image.dtype)}
        if self.bbox_clip_border:
            clip_boxes_(out['gt_bboxes'], size[::-1])
        return out
