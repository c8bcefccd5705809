from __future__ import annotations

import math

import numpy as np
import pytest

from detkit.data.transforms.affine import RandomAffine, RandomShift, Rotate, ShearX, TranslateX, TranslateY, warp_boxes
from detkit.registry import ConfigError


def test_a_quarter_turn_about_the_middle_moves_pixels_boxes_and_masks_alike(draw):
    before = draw([(10, 5, 30, 25)], size=(48, 48))
    image = before['img'].copy()
    out = Rotate(level=10, max_mag=90.0, reversal_prob=0.0)(before)
    assert (out['img'] == np.rot90(image, -1)).all()                  # clockwise
    assert np.allclose(out['gt_bboxes'], [[23, 10, 43, 30]], atol=1e-4)       # x' = 48 - y, y' = x
    assert out['gt_masks'].get_bboxes().tolist() == [[23, 10, 43, 30]]


def test_a_shift_fills_with_the_border_value_and_drops_what_has_left(draw):
    out = TranslateX(level=10, max_mag=0.5, reversal_prob=0.0, img_border_value=7)(draw([(0, 0, 8, 8), (40, 10, 60, 20)], size=(48, 64)))
    assert (out['img'][:, :32] == 7).all()
    assert out['gt_bboxes'].tolist() == [[32, 0, 40, 8]] and out['gt_bboxes_labels'].tolist() == [0]
    down = TranslateY(level=10, max_mag=0.25, reversal_prob=1.0)(draw([(10, 5, 30, 25)]))
    assert down['gt_bboxes'].tolist() == [[10, 0, 30, 13]]            # reversed: up by 12


def test_a_shear_moves_rows_by_the_tangent(draw):
    out = ShearX(level=5, max_mag=90.0, reversal_prob=0.0)(draw([(0, 10, 4, 20)]))
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
                                  lambda: RandomShift(prob=3)])
def test_settings_that_cannot_be_are_named(make):
    with pytest.raises(ConfigError, match='prob|level|mask_border_value|scaling_ratio_range'):
        make()
