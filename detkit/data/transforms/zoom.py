"""Place the image on a larger canvas, or crop a window that may extend beyond the image."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from detkit.data.transforms.base import BaseTransform
from detkit.data.transforms.crop import keep_objects
from detkit.data.transforms.geometry import clip_boxes_, record_
from detkit.registry import TRANSFORMS, ConfigError


def placed(results: dict[str, Any], size: tuple[int, int], left: int, top: int, fill: Sequence[float], seg_fill: int = 255,
           clip: bool = False) -> dict[str, Any]:
    """Place image, boxes, masks and map on a canvas of ``size`` (height, width), image origin at (``left``, ``top``, may be < 0).

    ``fill``: one number per channel. ``clip``: clip boxes to the canvas, and drop boxes completely outside.
    """
    results['img'] = on_canvas(results['img'], size, left, top, fill)
    results['img_shape'] = size
    record_(results, [[1, 0, left], [0, 1, top], [0, 0, 1]])
    if 'gt_seg_map' in results:
        results['gt_seg_map'] = on_canvas(results['gt_seg_map'], size, left, top, seg_fill)
    if 'gt_masks' in results:
        results['gt_masks'] = results['gt_masks'].place(size, left, top)
    if 'gt_bboxes' in results:
        boxes = results['gt_bboxes'] + np.array([left, top, left, top], np.float32)
        inside = boxes.copy()
        clip_boxes_(inside, size)
        results['gt_bboxes'] = inside if clip else boxes
        if clip:
            keep_objects(results, (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1]))
    return results


def on_canvas(image: np.ndarray, size: tuple[int, int], left: int, top: int, fill: float | Sequence[float]) -> np.ndarray:
    """Return (height, width[, C]): ``image`` at (``left``, ``top``), the rest set to ``fill``."""
    canvas = np.empty((*size, *image.shape[2:]), image.dtype)
    canvas[...] = fill
    (y1, y2), (x1, x2) = np.clip([top, top + image.shape[0]], 0, size[0]), np.clip([left, left + image.shape[1]], 0, size[1])
    canvas[y1:y2, x1:x2] = image[y1 - top:y2 - top, x1 - left:x2 - left]
    return canvas


@TRANSFORMS.register_module()
class Expand(BaseTransform):
    """With probability ``prob``, place the image at random on a canvas larger by a factor in ``ratio_range`` (SSD, Sec. 3.6).

    ``mean``: colour of the canvas, RGB if ``to_rgb`` (as in the preprocessor), else BGR. ``seg_ignore_label``: value of ``gt_seg_map`` on
    the rest of the canvas.
    """

    random = True

    def __init__(self, mean: Sequence[float] = (0, 0, 0), to_rgb: bool = True, ratio_range: tuple[float, float] = (1, 4),
                 seg_ignore_label: int | None = None, prob: float = 0.5) -> None:
        if not 1 <= ratio_range[0] <= ratio_range[1]:
            raise ConfigError(f'Expand ratio_range={tuple(ratio_range)} must rise, from 1 on.')
        self.mean, self.ratio_range = tuple(mean)[::-1] if to_rgb else tuple(mean), tuple(ratio_range)
        self.seg_ignore_label, self.prob = 255 if seg_ignore_label is None else seg_ignore_label, prob

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        rng = results['rng']
        if rng.random() >= self.prob:
            return results
        ratio, (height, width) = rng.uniform(*self.ratio_range), results['img'].shape[:2]
        size = int(height * ratio), int(width * ratio)
        left, top = (int(rng.uniform(0, more)) for more in (width * ratio - width, height * ratio - height))
        return placed(results, size, left, top, self.mean, self.seg_ignore_label)


@TRANSFORMS.register_module()
class RandomCenterCropPad(BaseTransform):
    """Crop a window around a random point and fill it outside the image (CornerNet, https://arxiv.org/abs/1808.01244, Sec. 4.1).

    Args:
        crop_size: (width, height) in pixels, multiplied by a random choice of ``ratios``.
        border: minimum distance of the point from the image border; halved until the image is large enough.
        mean, std, to_rgb: as in the preprocessor; ``mean`` is the fill colour, ``std`` is not used.
        test_mode: centre the whole image on a canvas. ``test_pad_mode`` sets each side: ``('logical_or', n)``: image side | n;
            ``('size_divisor', n)``: next multiple of n. ``test_pad_add_pix``: pixels added to each side, only with 'logical_or'. Writes
            ``border``: top, bottom, left, right of the image in the canvas.
        bbox_clip_border: clip boxes to the window.
    """

    def __init__(self, crop_size: tuple[int, int] | None = None, ratios: Sequence[float] | None = (0.9, 1.0, 1.1), border: int | None = 128,
                 mean: Sequence[float] | None = None, std: Sequence[float] | None = None, to_rgb: bool | None = None,
                 test_mode: bool = False, test_pad_mode: tuple[str, int] | None = ('logical_or', 127), test_pad_add_pix: int = 0,
                 bbox_clip_border: bool = True) -> None:
        if mean is None or to_rgb is None:
            raise ConfigError("RandomCenterCropPad needs mean and to_rgb, those of the model's data_preprocessor.")
        if test_mode and (test_pad_mode is None or test_pad_mode[0] not in ('logical_or', 'size_divisor')):
            raise ConfigError(f"RandomCenterCropPad test_pad_mode={test_pad_mode} is not offered. Known: ('logical_or', n), "
                              f"('size_divisor', n).")
        if test_mode and test_pad_add_pix and test_pad_mode[0] != 'logical_or':
            raise ConfigError(f"RandomCenterCropPad test_pad_add_pix={test_pad_add_pix} has no effect with test_pad_mode={test_pad_mode}. "
                              f"Remove it, or use ('logical_or', n).")
        if not test_mode and (not crop_size or min(crop_size) <= 0 or not ratios):
            raise ConfigError(f'RandomCenterCropPad needs crop_size (width, height) and ratios for training; given {crop_size}, {ratios}.')
        self.random, self.test_mode = not test_mode, test_mode
        self.mean = tuple(mean)[::-1] if to_rgb else tuple(mean)
        self.crop_size, self.ratios, self.border, self.bbox_clip_border = crop_size, ratios, border, bbox_clip_border
        self.test_pad_mode, self.test_pad_add_pix = test_pad_mode, test_pad_add_pix

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        height, width = results['img'].shape[:2]
        if not self.test_mode:
            return self.window(results, results['rng'], height, width)
        kind, n = self.test_pad_mode
        size = tuple((s | n if kind == 'logical_or' else math.ceil(s / n) * n) + self.test_pad_add_pix for s in (height, width))
        top, left = size[0] // 2 - height // 2, size[1] // 2 - width // 2
        results['border'] = np.array([top, top + height, left, left + width], np.float32)
        return placed(results, size, left, top, self.mean)

    def window(self, results: dict[str, Any], rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
        centers = (results['gt_bboxes'][:, :2] + results['gt_bboxes'][:, 2:]) / 2
        margins = [margin(self.border, side) for side in (width, height)]
        while True:                                       # ends: the centre of any object can be drawn
            ratio = self.ratios[int(rng.integers(len(self.ratios)))]
            w, h = (int(s * ratio) for s in self.crop_size)
            for _ in range(50):
                x, y = (int(rng.integers(m, max(side - m, m + 1))) for m, side in zip(margins, (width, height)))
                near = (np.abs(centers - (x, y)) < (w // 2, h // 2)).all(1)
                if near.any() or not len(centers):
                    keep_objects(results, near)
                    return placed(results, (h, w), w // 2 - x, h // 2 - y, self.mean, clip=self.bbox_clip_border)
            margins = [m // 2 for m in margins]           # all objects are near the border: allow windows nearer to it


def margin(border: int, side: int) -> int:
    """Return ``border`` divided by the smallest power of two that makes twice the result less than ``side``."""
    while 2 * border >= side and border:
        border //= 2
    return border
