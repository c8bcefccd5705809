from __future__ import annotations

import numpy as np
import pytest

from detkit.data.transforms.colour import PhotoMetricDistortion, YOLOXHSVRandomAug

IMAGE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize('transform', [YOLOXHSVRandomAug(), PhotoMetricDistortion()], ids=lambda t: type(t).__name__)
def test_colours_change_by_their_rng_alone(transform):
    def run(seed):
        return transform(dict(img=IMAGE.copy(), rng=np.random.default_rng(seed)))['img']
    outs = [run(seed) for seed in range(6)]
    dtype = np.float32 if isinstance(transform, PhotoMetricDistortion) else np.uint8
    assert all(o.shape == IMAGE.shape and o.dtype == dtype for o in outs)
    assert (run(3) == outs[3]).all()
    assert sum((o != IMAGE).any() for o in outs) >= 4 and (outs[0] != outs[1]).any()


def test_no_shift_is_no_change_but_for_rounding_through_hsv():
    out = YOLOXHSVRandomAug(0, 0, 0)(dict(img=IMAGE.copy(), rng=np.random.default_rng(0)))['img']
    assert np.abs(out.astype(int) - IMAGE).max() <= 6


class Draws:
    """Stands in for a generator: answers what it was given, in order."""

    def __init__(self, *values) -> None:
        self.values = list(values)

    def __getattr__(self, name: str):
        return lambda *args: self.values.pop(0)


@pytest.mark.parametrize('contrast_first,shift,hue,expected', [
    (1, 20., 10., [[204.75012, 378., 0.], [84.68692, 0., 308.]]), (0, -30., -10., [[64.16671, 308., 0.], [144.77324, 0., 238.]])])
def test_distorted_pixels_are_those_of_mmdetection(contrast_first, shift, hue, expected):
    """Recorded from MMDetection 3.3.0 with its random numbers set to these: float32 that may leave 0 to 255."""
    image = np.array([[[250, 10, 100], [3, 200, 90]]], np.uint8)
    rng = Draws(np.array([1, contrast_first, 1, 1, 1, 1]), shift, 1.4, 1.3, hue, np.array([2, 0, 1]))
    out = PhotoMetricDistortion()(dict(img=image, rng=rng))['img']
    assert out.dtype == np.float32 and np.allclose(out[0], expected, atol=1e-2)


def test_hsv_is_shifted_alike_in_float_images():
    whole = YOLOXHSVRandomAug()(dict(img=IMAGE.copy(), rng=np.random.default_rng(1)))['img']
    out = YOLOXHSVRandomAug()(dict(img=IMAGE.astype(np.float32) + 0.2, rng=np.random.default_rng(1)))['img']
    assert out.dtype == np.float32 and (out == whole).all() and (out != IMAGE).any()


def test_brightness_is_bounded_by_its_delta():
    grey = np.full((4, 4, 3), 100, np.uint8)
    still = PhotoMetricDistortion(brightness_delta=20, contrast_range=(1, 1), saturation_range=(1, 1), hue_delta=0)
    values = [int(still(dict(img=grey.copy(), rng=np.random.default_rng(s)))['img'].mean()) for s in range(40)]
    assert 79 <= min(values) < 95 and 105 < max(values) <= 121
