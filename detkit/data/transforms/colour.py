"""Colour transforms; boxes and masks do not change."""
from __future__ import annotations

from typing import Any

import numpy as np

from detkit.data.transforms.base import BaseTransform
from detkit.opencv import cv2
from detkit.registry import TRANSFORMS


@TRANSFORMS.register_module()
class YOLOXHSVRandomAug(BaseTransform):
    """Shift hue, saturation and value, each with probability 0.5 (YOLOX, https://arxiv.org/abs/2107.08430).

    The deltas are the maximum shifts in OpenCV's units: hue 0..179 (wraps around), saturation and value 0..255. Float images are rounded
    to uint8 first.
    """

    random = True

    def __init__(self, hue_delta: int = 5, saturation_delta: int = 30, value_delta: int = 30) -> None:
        self.deltas = (hue_delta, saturation_delta, value_delta)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        rng = results['rng']
        shifts = (rng.uniform(-1, 1, 3) * self.deltas * rng.integers(0, 2, 3)).astype(np.int16)
        image = results['img']
        as_uint8 = image if image.dtype == np.uint8 else np.rint(image).clip(0, 255).astype(np.uint8)
        hsv = cv2.cvtColor(as_uint8, cv2.COLOR_BGR2HSV)
        levels = np.arange(256, dtype=np.int16)
        tables = [(levels + shifts[0]) % 180, *((levels + s).clip(0, 255) for s in shifts[1:])]
        hsv = cv2.LUT(hsv, np.stack(tables, -1).astype(np.uint8)[:, None])
        results['img'] = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR).astype(image.dtype, copy=False)
        return results


@TRANSFORMS.register_module()
class PhotoMetricDistortion(BaseTransform):
    """Change brightness, contrast, saturation, hue and channel order, each with probability 0.5 (SSD, https://arxiv.org/abs/1512.02325).

    ``brightness_delta`` and ``hue_delta``: maximum shifts (0..255, degrees); the ranges are (min, max) factors. Contrast is applied first
    or last. As in MMDetection, ``img`` becomes float32 and its values may leave 0 to 255.
    """

    random = True

    def __init__(self, brightness_delta: int = 32, contrast_range: tuple[float, float] = (0.5, 1.5),
                 saturation_range: tuple[float, float] = (0.5, 1.5), hue_delta: int = 18) -> None:
        self.brightness_delta, self.hue_delta = brightness_delta, hue_delta
        self.contrast_range, self.saturation_range = tuple(contrast_range), tuple(saturation_range)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        rng = results['rng']
        use = rng.integers(0, 2, 6).astype(bool)      # brightness, contrast first, contrast, saturation, hue, channels
        shift = rng.uniform(-self.brightness_delta, self.brightness_delta)
        contrast, saturation = rng.uniform(*self.contrast_range), rng.uniform(*self.saturation_range)
        hue, order = rng.uniform(-self.hue_delta, self.hue_delta), rng.permutation(3)
        image = results['img'].astype(np.float32)
        if use[0]:
            image += shift
        if use[1] and use[2]:
            image *= contrast
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        if use[3]:
            hsv[..., 1] *= saturation
            if saturation > 1:
                hsv[..., 1] = hsv[..., 1].clip(0, 1)
        if use[4]:
            hsv[..., 0] += hue
            hsv[..., 0][hsv[..., 0] > 360] -= 360
            hsv[..., 0][hsv[..., 0] < 0] += 360
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        if use[2] and not use[1]:
            image *= contrast
        results['img'] = image[..., order] if use[5] else image
        return results
