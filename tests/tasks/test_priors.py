"""Anchors and points by hand."""
from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from detkit.ops.boxes import areas
from detkit.registry import TASK_UTILS, ConfigError
from detkit.tasks.priors import AnchorGenerator, MlvlPointGenerator, cells_inside, grid_points


def refusal(**cfg: object) -> str:
    with pytest.raises(ConfigError) as caught:
        TASK_UTILS.build(dict(type='AnchorGenerator', **cfg))
    return str(caught.value)


def test_points_lie_row_by_row():
    assert grid_points((2, 3), (4, 8), 0.5).tolist() == [[2, 4], [6, 4], [10, 4], [2, 12], [6, 12], [10, 12]]


def test_anchors_of_one_cell_by_hand():
    # sides 8 and 16 of ratio 1; ratio 4 is twice as high and half as wide; all scales of a ratio first
    anchors = AnchorGenerator(strides=[8], ratios=[1., 4.], scales=[1., 2.])([(1, 1)])[0]
    assert anchors.tolist() == [[-4, -4, 4, 4], [-8, -8, 8, 8], [-2, -8, 2, 8], [-4, -16, 4, 16]]
    ratios_first = AnchorGenerator(strides=[8], ratios=[1., 4.], scales=[1., 2.], scale_major=False)([(1, 1)])[0]
    assert ratios_first.tolist() == [[-4, -4, 4, 4], [-2, -8, 2, 8], [-8, -8, 8, 8], [-4, -16, 4, 16]]


def test_anchors_follow_the_grid_cell_by_cell():
    anchors = AnchorGenerator(strides=[4, (8, 16)], ratios=[1.], scales=[1., 2.])([(1, 2), (2, 1)])
    assert anchors[0].tolist() == [[-2, -2, 2, 2], [-4, -4, 4, 4], [2, -2, 6, 2], [0, -4, 8, 4]]
    assert anchors[1].tolist() == [[-4, -4, 4, 4], [-8, -8, 8, 8], [-4, 12, 4, 20], [-8, 8, 8, 24]]     # base: the lesser stride


def test_octaves_are_scales():
    octaves = AnchorGenerator(strides=[8], ratios=[.5, 1.], octave_base_scale=4, scales_per_octave=3)
    scales = AnchorGenerator(strides=[8], ratios=[.5, 1.], scales=[4., 4 * 2**(1 / 3), 4 * 2**(2 / 3)])
    assert_close(octaves.base_anchors[0], scales.base_anchors[0])
    assert octaves.num_base_priors == 6


def test_sizes_and_centres_may_be_given():
    given_size = AnchorGenerator(strides=[8], ratios=[1.], scales=[1.], base_sizes=[6], center_offset=0.5)([(1, 1)])[0]
    assert given_size.tolist() == [[0, 0, 6, 6]]
    centred = AnchorGenerator(strides=[8], ratios=[1.], scales=[1.], centers=[(1., 2.)])([(1, 1)])[0]
    assert centred.tolist() == [[-3, -2, 5, 6]]


@settings(max_examples=30, deadline=None)
@given(st.floats(.1, 10), st.floats(.5, 16), st.sampled_from([4, 8, 32]))
def test_an_anchor_keeps_its_area_whatever_its_ratio(ratio: float, scale: float, stride: int):
    anchor = AnchorGenerator(strides=[stride], ratios=[ratio], scales=[scale])([(1, 1)])[0]
    assert areas(anchor).item() == pytest.approx((scale * stride)**2, rel=1e-4)
    width, height = (anchor[0, 2:] - anchor[0, :2]).tolist()
    assert height / width == pytest.approx(ratio, rel=1e-4)


def test_a_point_carries_its_strides():
    points = MlvlPointGenerator(strides=[8, (16, 32)], offset=0)([(1, 2), (1, 1)])
    assert points[0].tolist() == [[0, 0, 8, 8], [8, 0, 8, 8]]
    assert points[1].tolist() == [[0, 0, 16, 32]]
    assert MlvlPointGenerator(strides=[8])([(1, 1)])[0].tolist() == [[4, 4, 8, 8]]


def test_cells_wholly_in_the_padding_are_left_out():
    # image of 10 x 20 (height, width): with stride 8 the third column and the second row still reach into it
    inside = cells_inside([(3, 4)], [(8, 8)], (10, 20), 2)
    assert inside.reshape(3, 4, 2)[..., 0].tolist() == [[True, True, True, False]] * 2 + [[False] * 4]
    assert torch.equal(inside.reshape(3, 4, 2)[..., 0], inside.reshape(3, 4, 2)[..., 1])
    narrow = cells_inside([(3, 4)], [(16, 8)], (10, 20), 1)       # strides are (width, height)
    assert narrow.reshape(3, 4).tolist() == [[True, True, False, False]] * 2 + [[False] * 4]


def test_valid_covers_all_levels_in_the_order_of_the_priors():
    for generator in (AnchorGenerator(strides=[4, 8], ratios=[1.], scales=[1., 2.]), MlvlPointGenerator(strides=[4, 8])):
        sizes = [(4, 4), (2, 2)]
        priors, valid = torch.cat(generator(sizes)), generator.valid(sizes, (8, 16))
        assert len(priors) == len(valid) == 20 * generator.num_base_priors
        assert valid.sum() == (8 + 2) * generator.num_base_priors
        assert generator.valid(sizes, (16, 16)).all()
        assert generator.num_levels == 2


def test_settings_that_contradict_each_other_are_refused():
    basics = dict(strides=[8, 16], ratios=[1.])
    needs = 'AnchorGenerator needs either scales, or octave_base_scale with scales_per_octave.'
    assert refusal(**basics) == needs
    assert refusal(**basics, octave_base_scale=4) == needs
    assert refusal(**basics, scales=[1.], octave_base_scale=4) == needs
    assert refusal(**basics, scales=[1.], octave_base_scale=4, scales_per_octave=3) == needs
    assert refusal(**basics, scales=[1.], centers=[(0, 0)] * 2, center_offset=.5) == \
        'AnchorGenerator takes centers or center_offset, not both.'
    assert refusal(**basics, scales=[1.], center_offset=2) == 'center_offset: is 2; it should be in [0, 1].'
    assert refusal(**basics, scales=[1.], base_sizes=[4]) == 'AnchorGenerator base_sizes has 1 entries, strides has 2.'
    assert refusal(**basics, scales=[1.], centers=[(0, 0)]) == 'AnchorGenerator centers has 1 entries, strides has 2.'


def test_another_number_of_feature_maps_is_refused():
    for generator in (AnchorGenerator(strides=[4, 8], ratios=[1.], scales=[1.]), MlvlPointGenerator(strides=[4, 8])):
        with pytest.raises(ConfigError, match='has strides for 2 levels; the head was given 1 feature maps.'):
            generator([(4, 4)])
