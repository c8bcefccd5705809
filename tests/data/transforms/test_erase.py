from __future__ import annotations

import numpy as np
import pytest

from detkit.data.transforms.erase import CutOut, RandomErasing, covered
from detkit.registry import TRANSFORMS, ConfigError


def test_cut_out_fills_rectangles_and_keeps_the_objects(draw):
    out = CutOut(n_holes=1, cutout_shape=(6, 4), fill_in=(1, 2, 3))(draw())
    hole = (out['img'] == (1, 2, 3)).all(-1)
    ys, xs = hole.nonzero()
    assert 0 < hole.sum() <= 24 and hole[ys.min():ys.max() + 1, xs.min():xs.max() + 1].all() and len(out['gt_bboxes']) == 2
    out = CutOut(n_holes=(2, 2), cutout_ratio=[(0.25, 0.5)], fill_in=(1, 2, 3))(draw(seed=3))
    assert (out['img'] == (1, 2, 3)).all(-1).sum() <= 2 * 16 * 24


def test_cut_out_leaves_the_image_it_was_given_as_it_was(draw):
    before = draw()
    image = before['img'].copy()
    kept = before['img']
    CutOut(n_holes=5, cutout_shape=(9, 9))(before)
    assert (kept == image).all()


def test_erased_objects_are_dropped_and_masks_get_holes(draw):
    before = draw([(10, 5, 30, 25), (0, 0, 64, 48)])
    assert TRANSFORMS.build(dict(type='RandomErasing', n_patches=(0, 3), ratio=(0, 0.2))).n_patches == (0, 3)
    out = RandomErasing(n_patches=1, ratio=1.0, bbox_erased_thr=0.9)(before)
    assert len(out['gt_bboxes']) == 0 and (out['img'] == 128).all()
    out = RandomErasing(n_patches=1, ratio=0.5, bbox_erased_thr=1.1)(draw([(0, 0, 64, 48)], seed=1))
    assert out['gt_masks'].areas.tolist() == [64 * 48 - 32 * 24] and (out['img'] == 128).all(-1).sum() >= 32 * 24


def test_what_two_patches_cover_is_added():
    found = covered(np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32), np.array([[0, 0, 5, 10], [0, 0, 10, 5]]))
    assert found.tolist() == [1.0, 0.0]


@pytest.mark.parametrize('make,words', [(lambda: CutOut(3), 'one of cutout_shape'), (lambda: CutOut((3, 1), (2, 2)), 'rising'),
                                        (lambda: RandomErasing(1, 1.5), 'share of the image')])
def test_settings_that_cannot_be_are_named(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_polygons_cannot_have_holes(draw):
    with pytest.raises(ConfigError, match='poly2mask'):
        RandomErasing(1, 0.2)(draw(masks='polygon'))
