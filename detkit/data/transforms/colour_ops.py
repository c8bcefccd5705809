"""The operations of AutoAugment that change colours alone (https://arxiv.org/abs/1805.09501, table 6).

They take uint8 images and give uint8 images; magnitudes are those of MMDetection.
"""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from detkit.data.transforms.affine import check_operation, magnitude
from detkit.data.transforms.base import BaseTransform
from detkit.opencv import cv2
from detkit.registry import TRANSFORMS

LEVELS = np.arange(256)


class Colouring:
    """With probability ``prob``, at ``level`` 0 to 10 between ``min_mag`` and ``max_mag`` (None: drawn)."""

    random = True
    span = (0.1, 1.9)
    __repr__ = BaseTransform.__repr__

    def __init__(self, prob: float = 1.0, level: int | None = None, min_mag: float | None = None, max_mag: float | None = None) -> None:
        self.prob, self.level = prob, level
        self.min_mag, self.max_mag = (given if given is not None else default for given, default in zip((min_mag, max_mag), self.span))
        check_operation(type(self).__name__, prob, level, self.min_mag, self.max_mag)

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
        return cv2.LUT(image, (LEVELS * amount).clip(0, 255).astype(np.uint8))


@TRANSFORMS.register_module()
class Contrast(Colouring):
    """Towards the mean brightness (below 1) or away from it."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        mean = round(float(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).mean()))
        return cv2.LUT(image, (LEVELS * amount + mean * (1 - amount)).clip(0, 255).astype(np.uint8))


@TRANSFORMS.register_module()
class Sharpness(Colouring):
    """Towards a smoothed image (below 1) or away from it."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
        return blended(image, cv2.filter2D(image, -1, kernel), amount)


@TRANSFORMS.register_module()
class Solarize(Colouring):
    """Levels from the magnitude on are inverted."""

    span = (0.0, 256.0)

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        return cv2.LUT(image, np.where(LEVELS < amount, LEVELS, 255 - LEVELS).astype(np.uint8))


@TRANSFORMS.register_module()
class SolarizeAdd(Colouring):
    """Levels below 128 grow by the magnitude."""

    span = (0.0, 110.0)

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        return cv2.LUT(image, np.where(LEVELS < 128, (LEVELS + amount).clip(0, 255), LEVELS).astype(np.uint8))


@TRANSFORMS.register_module()
class Posterize(Colouring):
    """As many bits of each level are kept as the magnitude says, rounded up."""

    span = (0.0, 4.0)

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        dropped = 8 - math.ceil(amount)
        return cv2.LUT(image, (LEVELS >> dropped << dropped).astype(np.uint8))


@TRANSFORMS.register_module()
class Equalize(Colouring):
    """The histogram of each channel is made level."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        return cv2.LUT(image, np.stack([equalising(np.bincount(c.ravel(), minlength=256)) for c in channels_of(image)], -1)[:, None])


@TRANSFORMS.register_module()
class AutoContrast(Colouring):
    """Each channel is stretched over all levels."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        return cv2.LUT(image, np.stack([stretching(int(c.min()), int(c.max())) for c in channels_of(image)], -1)[:, None])


@TRANSFORMS.register_module()
class Invert(Colouring):
    """The negative."""

    def coloured(self, image: np.ndarray, amount: float) -> np.ndarray:
        return 255 - image


def blended(image: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """``share`` of ``image``, the rest of ``other``; a share above 1 leads away from ``other``. Rounded, kept within 0 to 255."""
    return cv2.addWeighted(image, share, other, 1 - share, 0)


def channels_of(image: np.ndarray) -> list[np.ndarray]:
    return [image[..., i] for i in range(image.shape[2])]


def equalising(histogram: np.ndarray) -> np.ndarray:
    """uint8 (256,): new levels, so that as many pixels lie between two of them as between any other two."""
    filled = histogram[histogram > 0]
    step = (histogram.sum() - filled[-1]) // 255
    if len(filled) < 2 or step == 0:
        return LEVELS.astype(np.uint8)
    before = np.concatenate([[0], np.cumsum(histogram)[:-1]])
    return ((before + step // 2) // step).clip(0, 255).astype(np.uint8)


def stretching(low: int, high: int) -> np.ndarray:
    """uint8 (256,): ``low`` becomes 0, ``high`` 255."""
    return ((LEVELS - low) * (255 / max(high - low, 1))).clip(0, 255).astype(np.uint8) if high > low else LEVELS.astype(np.uint8)
