"""The operations of AutoAugment that change colours alone (https://arxiv.org/abs/1805.09501, table 6).

Magnitudes and rounding are those of MMDetection and mmcv. Images are uint8 or, where an operation needs no histogram, float32.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from detkit.data.transforms.affine import check_operation, magnitude
from detkit.data.transforms.base import BaseTransform
from detkit.opencv import cv2
from detkit.registry import TRANSFORMS, ConfigError

LEVELS = np.arange(256, dtype=np.uint8)


class Colouring:
    """With probability ``prob``, at ``level`` 0 to 10 between ``min_mag`` and ``max_mag`` (None: drawn), rounded to one decimal.

    ``span``: the default bounds; ``limits``: what they may be.
    """

    random = True
    span = (0.1, 1.9)
    limits = (0.0, 2.0)
    __repr__ = BaseTransform.__repr__

    def __init__(self, prob: float = 1.0, level: int | None = None, min_mag: float | None = None, max_mag: float | None = None) -> None:
        self.prob, self.level = prob, level
        self.min_mag, self.max_mag = (given if given is not None else default for given, default in zip((min_mag, max_mag), self.span))
        check_operation(type(self).__name__, prob, level, self.min_mag, self.max_mag, self.limits)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        rng = results['rng']
        if rng.random() < self.prob:
            amount = magnitude(rng, self.level, self.min_mag, self.max_mag)
            results['img'] = self.coloured(results['img'], amount)
        return results

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        raise NotImplementedError


@TRANSFORMS.register_module()
class ColorTransform(Colouring):
    """Leaves the image as it is: the identity among the operations that are drawn (Soft Teacher names it so)."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        return image


@TRANSFORMS.register_module()
class Color(Colouring):
    """Towards grey (below 1) or away from it."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        return blended(image, grey, amount)


@TRANSFORMS.register_module()
class Brightness(Colouring):
    """Towards black (below 1) or away from it."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        return map_levels(image, lambda values: truncated_blend(values, np.zeros_like(values), amount))


@TRANSFORMS.register_module()
class Contrast(Colouring):
    """Towards the mean brightness (below 1) or away from it."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        mean = round(float(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).mean(dtype=np.float64)))
        return map_levels(image, lambda values: truncated_blend(values, np.full_like(values, mean), amount))


@TRANSFORMS.register_module()
class Sharpness(Colouring):
    """Towards a smoothed image (below 1) or away from it."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float64) / 13
        return truncated_blend(image, cv2.filter2D(image, -1, kernel), amount)


@TRANSFORMS.register_module()
class Solarize(Colouring):
    """Levels from the magnitude on are inverted."""

    span = limits = (0.0, 256.0)

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        return map_levels(image, lambda values: np.where(values < amount, values, 255 - values))


@TRANSFORMS.register_module()
class SolarizeAdd(Colouring):
    """Levels below 128 grow by the magnitude."""

    span = limits = (0.0, 110.0)

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        return map_levels(image, lambda values: np.where(values < 128, np.minimum(values + np.float64(amount), 255), values))


@TRANSFORMS.register_module()
class Posterize(Colouring):
    """As many bits of each level are kept as the magnitude says, rounded up."""

    span = (0.0, 4.0)
    limits = (0.0, 8.0)

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        check_uint8(image, self)
        dropped = 8 - math.ceil(amount)
        return cv2.LUT(image, (LEVELS.astype(int) >> dropped << dropped).astype(np.uint8))


@TRANSFORMS.register_module()
class Equalize(Colouring):
    """The histogram of each channel is made level."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        check_uint8(image, self)
        return cv2.LUT(image, np.stack([equalising(np.bincount(c.ravel(), minlength=256)) for c in channels_of(image)], -1)[:, None])


@TRANSFORMS.register_module()
class AutoContrast(Colouring):
    """Each channel is stretched over all levels."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        check_uint8(image, self)
        return cv2.LUT(image, np.stack([stretching(int(c.min()), int(c.max())) for c in channels_of(image)], -1)[:, None])


@TRANSFORMS.register_module()
class Invert(Colouring):
    """The negative."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        return 255 - image


def check_uint8(image: np.ndarray, operation: Colouring) -> None:
    """Raise ConfigError for an image that is not uint8: the operation is defined on 256 levels."""
    if image.dtype != np.uint8:
        raise ConfigError(f'{type(operation).__name__} needs uint8 images, given {image.dtype}. Set to_float32=False of LoadImageFromFile, '
                          f'and put transforms that give float images (PhotoMetricDistortion) after it.')


def map_levels(image: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """``function`` of each value; of uint8 images it is computed once for each of 256 levels, and truncated."""
    if image.dtype == np.uint8:
        return cv2.LUT(image, function(LEVELS).astype(np.uint8))
    return function(image).astype(image.dtype)


def truncated_blend(image: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """``blended`` in float32, then truncated to the image's type, as mmcv does for all but Color."""
    values = cv2.addWeighted(image.astype(np.float32), share, other.astype(np.float32), 1 - share, 0)
    return values.clip(0, 255).astype(image.dtype)


def blended(image: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """``share`` of ``image``, the rest of ``other``; a share above 1 leads away from ``other``. Rounded if uint8, kept within 0 to 255."""
    values = cv2.addWeighted(image, share, other, 1 - share, 0)
    return values if values.dtype == np.uint8 else values.clip(0, 255)


def channels_of(image: np.ndarray) -> list[np.ndarray]:
    return [image[..., i] for i in range(image.shape[2])]


def equalising(histogram: np.ndarray) -> np.ndarray:
    """uint8 (256,): new levels, so that as many pixels lie between two of them as between any other two."""
    filled = histogram[histogram > 0]
    step = (histogram.sum() - filled[-1]) // 255
    if len(filled) < 2 or step == 0:
        return LEVELS
    before = np.concatenate([[0], np.cumsum(histogram)[:-1]])
    return ((before + step // 2) // step).clip(0, 255).astype(np.uint8)


def stretching(low: int, high: int) -> np.ndarray:
    """uint8 (256,): ``low`` becomes 0, ``high`` 255."""
    if high <= low:
        return LEVELS
    scale = 255 / (high - low)
    return (LEVELS * scale + -low * scale).clip(0, 255).astype(np.uint8)     # in this order: the sum is truncated
