from __future__ import annotations

import numpy as np
import pytest

from detkit.data.transforms.zoom import Expand, RandomCenterCropPad, margin
from detkit.registry import ConfigError

CORNERNET = dict(mean=(1, 2, 3), std=(1, 1, 1), to_rgb=True)


def test_expand_puts_the_image_on_a_canvas_of_the_mean_colour(draw):
    before = draw()
    image = before['img'].copy()
    out = Expand(mean=(10, 20, 30), ratio_range=(2, 2), prob=1.0)(before)
    assert out['img'].shape == (96, 128, 3)
    x, y = (out['gt_bboxes'][0, :2] - (10, 5)).astype(int)
    assert (out['img'][y:y + 48, x:x + 64] == image).all()
    rest = np.ones((96, 128), bool)
    rest[y:y + 48, x:x + 64] = False
    assert (out['img'][rest] == (30, 20, 10)).all()                          # the mean is RGB, the image BGR
    assert (Expand(mean=(10, 20, 30), to_rgb=False, ratio_range=(2, 2), prob=1.0)(draw())['img'] == (10, 20, 30)).all(-1).any()
    assert Expand(prob=0.0)(draw())['img'].shape == (48, 64, 3)


def test_a_window_may_lie_partly_outside(draw):
    crop = RandomCenterCropPad(crop_size=(60, 40), ratios=(1.5,), border=8, test_pad_mode=None, **CORNERNET)
    for seed in range(20):
        out = crop(draw([(20, 10, 40, 30)], seed=seed))
        assert out['img'].shape == (60, 90, 3) and len(out['gt_bboxes']) == 1
        x1, y1, x2, y2 = out['gt_bboxes'][0]
        assert 0 <= x1 < x2 <= 90 and 0 <= y1 < y2 <= 60 and (out['img'] == (3, 2, 1)).all(-1).any()


def test_an_object_in_the_corner_is_found(draw):
    crop = RandomCenterCropPad(crop_size=(8, 8), ratios=(1.0,), border=23, test_pad_mode=None, **CORNERNET)
    assert len(crop(draw([(0, 0, 4, 4)]))['gt_bboxes']) == 1


def test_in_test_mode_the_image_stands_in_the_middle(draw):
    pad = RandomCenterCropPad(crop_size=None, ratios=None, border=None, test_mode=True, test_pad_mode=['logical_or', 127], **CORNERNET)
    assert not pad.random
    before = draw(size=(130, 100))
    image = before['img'].copy()
    out = pad(before)
    assert out['img'].shape == (255, 127, 3)                                 # 130 | 127, 100 | 127
    top, bottom, left, right = out['border'].astype(int)
    assert (bottom - top, right - left) == (130, 100) and (out['img'][top:bottom, left:right] == image).all()
    more = RandomCenterCropPad(None, None, None, test_mode=True, test_pad_mode=('logical_or', 31), test_pad_add_pix=1, **CORNERNET)
    assert more(draw())['img'].shape == (64, 96, 3)                          # 48 | 31 = 63, 64 | 31 = 95
    divisor = RandomCenterCropPad(None, None, None, test_mode=True, test_pad_mode=('size_divisor', 32), **CORNERNET)
    assert divisor(draw())['img'].shape == (64, 64, 3)
    with pytest.raises(ConfigError, match='test_pad_add_pix=1 has no effect'):
        RandomCenterCropPad(None, None, None, test_mode=True, test_pad_mode=('size_divisor', 32), test_pad_add_pix=1, **CORNERNET)


def test_the_margin_is_halved_until_it_fits():
    assert margin(128, 600) == 128 and margin(128, 200) == 64 and margin(128, 10) == 4


def test_missing_settings_are_named():
    with pytest.raises(ConfigError, match='needs mean and to_rgb'):
        RandomCenterCropPad(crop_size=(8, 8))
    with pytest.raises(ConfigError, match='crop_size'):
        RandomCenterCropPad(**CORNERNET)
    with pytest.raises(ConfigError, match='ratio_range'):
        Expand(ratio_range=(0.5, 2))
