"""AutoAugment operations that change only colours (https://arxiv.org/abs/1805.09501, table 6).

Magnitudes and rounding follow MMDetection and mmcv. Images are uint8 or, for operations without a histogram, float32.
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
    """A colour operation, applied with probability ``prob``.

    ``level`` (0 to 10) selects a magnitude between ``min_mag`` and ``max_mag``, rounded to one decimal; None: random. ``span``: default
    (min_mag, max_mag); ``limits``: (min, max) of valid magnitudes.
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
    """Return the image unchanged: the identity operation (name from Soft Teacher)."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        return image


@TRANSFORMS.register_module()
class Color(Colouring):
    """Change saturation: towards grey below 1, away from it above 1."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        return blended(image, grey, amount)


@TRANSFORMS.register_module()
class Brightness(Colouring):
    """Change brightness: towards black below 1, away from it above 1."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        return map_levels(image, lambda values: truncated_blend(values, np.zeros_like(values), amount))


@TRANSFORMS.register_module()
class Contrast(Colouring):
    """Change contrast: towards the mean brightness below 1, away from it above 1."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        mean = round(float(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).mean(dtype=np.float64)))
        return map_levels(image, lambda values: truncated_blend(values, np.full_like(values, mean), amount))


@TRANSFORMS.register_module()
class Sharpness(Colouring):
    """Change sharpness: towards a smoothed image below 1, away from it above 1."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float64) / 13
        return truncated_blend(image, cv2.filter2D(image, -1, kernel), amount)


@TRANSFORMS.register_module()
class Solarize(Colouring):
    """Invert all levels equal to or above the magnitude."""

    span = limits = (0.0, 256.0)

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        return map_levels(image, lambda values: np.where(values < amount, values, 255 - values))


@TRANSFORMS.register_module()
class SolarizeAdd(Colouring):
    """Add the magnitude to levels below 128."""

    span = limits = (0.0, 110.0)

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        return map_levels(image, lambda values: np.where(values < 128, np.minimum(values + np.float64(amount), 255), values))


@TRANSFORMS.register_module()
class Posterize(Colouring):
    """Keep the number of bits per level given by the magnitude, rounded up."""

    span = (0.0, 4.0)
    limits = (0.0, 8.0)

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        check_uint8(image, self)
        dropped = 8 - math.ceil(amount)
        return cv2.LUT(image, (LEVELS.astype(int) >> dropped << dropped).astype(np.uint8))


@TRANSFORMS.register_module()
class Equalize(Colouring):
    """Equalise the histogram of each channel."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        check_uint8(image, self)
        return cv2.LUT(image, np.stack([equalising(np.bincount(c.ravel(), minlength=256)) for c in channels_of(image)], -1)[:, None])


@TRANSFORMS.register_module()
class AutoContrast(Colouring):
    """Stretch each channel to the full range."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        check_uint8(image, self)
        return cv2.LUT(image, np.stack([stretching(int(c.min()), int(c.max())) for c in channels_of(image)], -1)[:, None])


@TRANSFORMS.register_module()
class Invert(Colouring):
    """Invert all levels."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        return 255 - image


def check_uint8(image: np.ndarray, operation: Colouring) -> None:
    """Raise ConfigError if the image is not uint8: the operation is defined on 256 levels."""
    if image.dtype != np.uint8:
        raise ConfigError(f'{type(operation).__name__} needs uint8 images, given {image.dtype}. Set to_float32=False of LoadImageFromFile, '
                          f'and put transforms that give float images (PhotoMetricDistortion) after it.')


def map_levels(image: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply ``function`` to each value; for uint8 images it is computed once per level (256 levels) and truncated."""
    if image.dtype == np.uint8:
        return cv2.LUT(image, function(LEVELS).astype(np.uint8))
    return function(image).astype(image.dtype)


def truncated_blend(image: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Blend as ``blended`` in float32, then truncate to the image's dtype, as mmcv does for all operations except Color."""
    values = cv2.addWeighted(image.astype(np.float32), share, other.astype(np.float32), 1 - share, 0)
    return values.clip(0, 255).astype(image.dtype)


def blended(image: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Return ``share * image + (1 - share) * other``, rounded for uint8, clipped to 0..255. A share above 1 moves away from ``other``."""
    values = cv2.addWeighted(image, share, other, 1 - share, 0)
    return values if values.dtype == np.uint8 else values.clip(0, 255)


def channels_of(image: np.ndarray) -> list[np.ndarray]:
    return [image[..., i] for i in range(image.shape[2])]


def equalising(histogram: np.ndarray) -> np.ndarray:
    """Return the lookup table, uint8 (256,), that equalises a histogram: equal numbers of pixels between neighbouring levels."""
    filled = histogram[histogram > 0]
    step = (histogram.sum() - filled[-1]) // 255
    if len(filled) < 2 or step == 0:
        return LEVELS
    before = np.concatenate([[0], np.cumsum(histogram)[:-1]])
    return ((before + step // 2) // step).clip(0, 255).astype(np.uint8)


def stretching(low: int, high: int) -> np.ndarray:
    """Return the lookup table, uint8 (256,), that maps ``low`` to 0 and ``high`` to 255."""
    if high <= low:
        return LEVELS
    scale = 255 / (high - low)
    return (LEVELS * scale + -low * scale).clip(0, 255).astype(np.uint8)     # keep this order: the sum is truncated
