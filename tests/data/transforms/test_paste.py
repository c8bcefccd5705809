from __future__ import annotations

import numpy as np
import pytest

from detkit.data.transforms.paste import CopyPaste
from detkit.registry import ConfigError


def test_all_objects_of_the_other_are_pasted_over(draw):
    before = draw([(0, 0, 20, 20)])
    image, seen = before['img'].copy(), []
    partner = before['partner']
    before['partner'] = lambda i: seen.append(partner(i)['img']) or partner(i)
    out = CopyPaste(selected=False)(before)
    assert out['gt_bboxes'].tolist() == [[0, 0, 20, 20], [12, 8, 40, 30]]    # an L shape has the same box
    assert out['gt_masks'].areas.tolist() == [400 - 8 * 12, 28 * 22]
    assert (out['img'][8:30, 12:40] == seen[0][8:30, 12:40]).all() and (out['img'][30:] == image[30:]).all()


def test_hidden_objects_go_and_partly_hidden_ones_shrink(draw):
    out = CopyPaste(selected=False, mask_occluded_thr=300)(draw([(13, 9, 20, 20), (12, 0, 40, 30), (50, 30, 60, 40)]))
    assert out['gt_bboxes_labels'].tolist() == [2, 0]                        # 28x8 pixels of the second are too few: 224
    out = CopyPaste(selected=False, mask_occluded_thr=100)(draw([(13, 9, 20, 20), (12, 0, 40, 30), (50, 30, 60, 40)]))
    assert out['gt_bboxes'].tolist() == [[12, 0, 40, 8], [50, 30, 60, 40], [12, 8, 40, 30]]


def test_another_size_is_cut_or_padded(draw):
    before = draw([(0, 0, 5, 5)])
    before['partner'] = lambda i: draw([(40, 30, 90, 60), (70, 50, 90, 60)], size=(60, 90))
    out = CopyPaste(selected=False)(before)
    assert out['img'].shape == (48, 64, 3) and out['gt_bboxes'].tolist() == [[0, 0, 5, 5], [40, 30, 64, 48]]


def test_boxes_become_masks_of_whole_pixels_rounded_down():
    from detkit.data.transforms.paste import boxes_to_bitmaps
    assert boxes_to_bitmaps(np.array([[0.9, 1.2, 3.8, 2.9]]), (4, 5)).get_bboxes().tolist() == [[0, 1, 3, 2]]     # as MMDetection's


def test_fewer_than_the_most_are_drawn(draw):
    before = draw([])
    before['partner'] = lambda i: draw([(i, i, i + 3, i + 3) for i in range(0, 40, 4)])
    counts = set()
    for seed in range(60):
        counts.add(len(CopyPaste(max_num_pasted=4)({**before, 'rng': np.random.default_rng(seed)})['gt_bboxes']))
    assert counts == {0, 1, 2, 3}


def test_boxes_stand_in_for_masks_when_asked(draw):
    out = CopyPaste(selected=False, paste_by_box=True)(draw([(0, 0, 20, 20)], masks=None))
    assert len(out['gt_bboxes']) == 2 and 'gt_masks' not in out
    with pytest.raises(ConfigError, match='paste_by_box'):
        CopyPaste(selected=False)(draw(masks=None))
    with pytest.raises(ConfigError, match='poly2mask'):
        CopyPaste(selected=False)(draw(masks='polygon'))
