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
    assert all(o.shape == IMAGE.shape and o.dtype == np.uint8 for o in outs)
    assert (run(3) == outs[3]).all()
    assert sum((o != IMAGE).any() for o in outs) >= 4 and (outs[0] != outs[1]).any()


def test_no_shift_is_no_change_but_for_rounding_through_hsv():
    out = YOLOXHSVRandomAug(0, 0, 0)(dict(img=IMAGE.copy(), rng=np.random.default_rng(0)))['img']
    assert np.abs(out.astype(int) - IMAGE).max() <= 6


def test_brightness_is_bounded_by_its_delta():
    grey = np.full((4, 4, 3), 100, np.uint8)
    still = PhotoMetricDistortion(brightness_delta=20, contrast_range=(1, 1), saturation_range=(1, 1), hue_delta=0)
    values = [int(still(dict(img=grey.copy(), rng=np.random.default_rng(s)))['img'].mean()) for s in range(40)]
    assert 79 <= min(values) < 95 and 105 < max(values) <= 121
