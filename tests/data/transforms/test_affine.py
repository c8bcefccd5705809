from __future__ import annotations

import math

import numpy as np
import pytest

from detkit.data.transforms.affine import (
    RandomAffine,
    RandomShift,
    Rotate,
    ShearX,
    TranslateX,
    TranslateY,
    magnitude,
    warp_boxes,
)
from detkit.registry import ConfigError


def test_a_quarter_turn_about_the_middle_moves_pixels_boxes_and_masks_alike(draw):
    before = draw([(10, 5, 30, 25)], size=(48, 48))
    image = before['img'].copy()
    out = Rotate(level=10, max_mag=90.0, reversal_prob=1.0)(before)
    assert (out['img'] == np.rot90(image, -1)).all()                  # clockwise
    assert np.allclose(out['gt_bboxes'], [[23, 10, 43, 30]], atol=1e-4)       # x' = 48 - y, y' = x
    assert out['gt_masks'].get_bboxes().tolist() == [[23, 10, 43, 30]]


def test_a_shift_fills_with_the_border_value_and_drops_what_has_left(draw):
    out = TranslateX(level=10, max_mag=0.5, reversal_prob=1.0, img_border_value=7)(draw([(0, 0, 8, 8), (40, 10, 60, 20)], size=(48, 64)))
    assert (out['img'][:, :32] == 7).all()
    assert out['gt_bboxes'].tolist() == [[32, 0, 40, 8]] and out['gt_bboxes_labels'].tolist() == [0]
    up = TranslateY(level=10, max_mag=0.25, reversal_prob=0.0)(draw([(10, 5, 30, 25)]))
    assert up['gt_bboxes'].tolist() == [[10, 0, 30, 16]]              # 0.25 is rounded to 0.2, which is 9.6 pixels of 48: up by 9


@pytest.mark.parametrize('low,high,expected', [
    (0.1, 1.9, [.1, .3, .5, .6, .8, 1., 1.2, 1.4, 1.5, 1.7, 1.9]), (0., 0.1, [0.] * 5 + [.1] * 6),
    (0., 4., [0., .4, .8, 1.2, 1.6, 2., 2.4, 2.8, 3.2, 3.6, 4.]),
    (0., 256., [0., 25.6, 51.2, 76.8, 102.4, 128., 153.6, 179.2, 204.8, 230.4, 256.])])
def test_magnitudes_are_those_of_mmdetection(low, high, expected):
    """Of levels 0 to 10; recorded from level_to_mag of MMDetection 3.3.0."""
    rng = np.random.default_rng(0)
    assert [magnitude(rng, level, low, high) for level in range(11)] == expected
    drawn = [magnitude(rng, None, low, high) for _ in range(9)]
    assert len({*drawn}) > 1 and drawn == [round(value, 1) for value in drawn]


@pytest.mark.parametrize('reversal_prob,sign', [(0.0, -1), (1.0, 1)])
def test_reversal_prob_is_the_share_of_positive_signs_as_in_mmdetection(draw, reversal_prob, sign):
    out = TranslateX(level=10, max_mag=0.5, reversal_prob=reversal_prob)(draw([(30, 10, 34, 20)], size=(48, 64)))
    assert out['homography_matrix'][0, 2] == 32 * sign


def test_a_shear_moves_rows_by_the_tangent(draw):
    out = ShearX(level=5, max_mag=90.0, reversal_prob=1.0)(draw([(0, 10, 4, 20)]))
    assert np.allclose(out['gt_bboxes'], [[10, 10, 24, 20]], atol=1e-4)       # 45 degrees: x + y


def test_an_operation_that_is_not_drawn_changes_nothing(draw):
    before = draw()
    assert (Rotate(prob=0.0)(dict(before))['img'] == before['img']).all()


def test_affine_without_ranges_is_the_identity_and_a_border_cuts_the_middle(draw):
    still = dict(max_rotate_degree=0, max_translate_ratio=0, scaling_ratio_range=(1, 1), max_shear_degree=0)
    before = draw()
    image = before['img'].copy()
    out = RandomAffine(**still)(before)
    assert (out['img'] == image).all() and out['gt_bboxes'].tolist() == [[10, 5, 30, 25], [0, 0, 64, 48]]
    out = RandomAffine(**still, border=(-16, -12))(draw())
    assert out['img'].shape == (24, 32, 3) and out['gt_bboxes'].tolist() == [[10, 5, 30, 24], [0, 0, 32, 24]]
    with pytest.raises(ConfigError, match='leaves nothing'):
        RandomAffine(border=(-40, 0))(draw())


def test_half_the_size_covers_half_the_pixels(draw):
    out = RandomAffine(max_rotate_degree=0, max_translate_ratio=0, scaling_ratio_range=(.5, .5), max_shear_degree=0)(draw([(8, 4, 40, 28)]))
    assert out['gt_bboxes'].tolist() == [[4, 2, 20, 14]] == out['gt_masks'].get_bboxes().tolist()


def test_boxes_become_the_hull_of_their_corners():
    cos = math.sqrt(0.5)
    found = warp_boxes(np.array([[-1, -1, 1, 1]], np.float32), np.array([[cos, -cos, 0], [cos, cos, 0], [0, 0, 1]]))
    assert np.allclose(found, [[-math.sqrt(2), -math.sqrt(2), math.sqrt(2), math.sqrt(2)]])


def test_a_random_shift_keeps_the_image_when_no_object_would_be_left(draw):
    before = draw([(0, 0, 3, 3)])
    image = before['img'].copy()
    out = RandomShift(prob=1.0, max_shift_px=2, filter_thr_px=40)(before)
    assert (out['img'] == image).all() and len(out['gt_bboxes']) == 1


@pytest.mark.parametrize('make', [lambda: Rotate(level=11), lambda: Rotate(prob=2.0), lambda: Rotate(min_mag=5.0, max_mag=1.0),
                                  lambda: Rotate(mask_border_value=1), lambda: RandomAffine(scaling_ratio_range=(2, 1)),
                                  lambda: RandomShift(prob=3), lambda: ShearX(max_mag=91.0), lambda: TranslateX(max_mag=2.0),
                                  lambda: Rotate(reversal_prob=1.5)])
def test_settings_that_cannot_be_are_named(make):
    with pytest.raises(ConfigError, match='prob|level|mask_border_value|scaling_ratio_range'):
        make()
