from __future__ import annotations

import numpy as np
import pytest
import torch

from detkit.structures import BitmapMasks, PolygonMasks
from detkit.structures.masks import clip_polygon, polygon_area, polygon_to_bitmap, rle_to_bitmap, run_lengths


def pair(x1=2, y1=1, x2=6, y2=4, height=8, width=10):
    """The same rectangle as a bitmap and as a polygon."""
    mask = np.zeros((1, height, width), np.uint8)
    mask[0, y1:y2, x1:x2] = 1
    return [BitmapMasks(mask, height, width), PolygonMasks([[np.array([x1, y1, x2, y1, x2, y2, x1, y2])]], height, width)]


@pytest.mark.parametrize('masks', pair(), ids=['bitmap', 'polygon'])
def test_both_kinds_answer_alike(masks):
    assert len(masks) == 1 and masks.areas.tolist() == [12]
    assert masks.get_bboxes().tolist() == [[2, 1, 6, 4]]
    assert masks.flip('horizontal').get_bboxes().tolist() == [[4, 1, 8, 4]]
    assert masks.flip('vertical').get_bboxes().tolist() == [[2, 4, 6, 7]]
    assert masks.flip('diagonal').get_bboxes().tolist() == [[4, 4, 8, 7]]
    assert masks.resize((16, 20)).get_bboxes().tolist() == [[4, 2, 12, 8]]
    assert masks.rescale(2.0).height == 16
    assert masks.pad((9, 12)).get_bboxes().tolist() == [[2, 1, 6, 4]]
    assert masks.crop(np.array([3, 2, 9, 8])).get_bboxes().tolist() == [[0, 0, 3, 2]]
    assert masks.expand(20, 20, 5, 7).get_bboxes().tolist() == [[9, 6, 13, 9]]
    assert masks.translate((8, 10), 2, 'horizontal').get_bboxes().tolist() == [[4, 1, 8, 4]]
    assert masks.to_ndarray().sum() == 12 and masks.to_tensor(torch.uint8, 'cpu').shape == (1, 8, 10)
    assert type(masks).cat([masks, masks]).areas.tolist() == [12, 12]
    target = masks.crop_and_resize(np.array([[2., 1, 6, 4]]), (6, 8), np.array([0]))
    assert (target.height, target.width) == (6, 8) and target.to_ndarray().all()


@pytest.mark.parametrize('masks', [BitmapMasks([], 8, 10), PolygonMasks([], 8, 10)], ids=['bitmap', 'polygon'])
def test_no_object_goes_through_everything(masks):
    for out in (masks, masks.flip(), masks.resize((4, 5)), masks.pad((9, 12)), masks.crop(np.array([0, 0, 4, 4])), masks.rescale(2.),
                masks.expand(20, 20, 1, 1), masks.rotate((8, 10), 30.), masks[np.zeros(0, bool)], type(masks).cat([masks, masks])):
        assert len(out) == 0 and out.get_bboxes().shape == (0, 4) and len(out.areas) == 0
    assert masks.to_tensor(torch.float32, 'cpu').shape == (0, 8, 10)


@pytest.mark.parametrize('kind', [0, 1])
def test_indexing_by_bool_int_list_slice_and_tensor(kind):
    three = type(pair()[kind]).cat([pair(0, 0, i + 1, 2)[kind] for i in range(3)])
    for index, areas in ((np.array([True, False, True]), [2, 6]), (1, [4]), ([2, 0], [6, 2]), (slice(1, None), [4, 6]),
                         (torch.tensor([False, True, False]), [4])):
        assert three[index].areas.tolist() == areas


def test_a_quarter_turn_turns_clockwise():
    for masks in pair(0, 0, 4, 2, 9, 9):
        box = masks.rotate((9, 9), 90).get_bboxes()[0]
        assert np.abs(box - [7, 0, 9, 4]).max() <= 1


def test_polygons_are_cut_at_a_window():
    square = np.array([[-2., 1], [4, 1], [4, 9], [-2, 9]])
    assert polygon_area(clip_polygon(square, 10, 6)) == 4 * 5
    assert len(clip_polygon(square + 50, 10, 6)) == 0
    outside = PolygonMasks([[np.array([50., 50, 60, 50, 60, 60])]], 80, 80).crop(np.array([0, 0, 10, 10]))
    assert outside.areas.tolist() == [0]


def test_run_lengths_compressed_or_not_become_bitmaps():
    plain = rle_to_bitmap(dict(size=[3, 2], counts=[1, 2, 3]), 3, 2)
    assert plain.tolist() == [[0, 0], [1, 0], [1, 0]]
    from pycocotools import mask as coco_mask
    packed = coco_mask.encode(np.asfortranarray(plain))
    assert (rle_to_bitmap(packed, 3, 2) == plain).all()
    assert polygon_to_bitmap([], 3, 2).sum() == 0


@pytest.mark.parametrize('size', [(1, 1), (7, 90), (90, 7), (33, 40)])
def test_run_lengths_are_read_as_pycocotools_reads_them(size):
    from pycocotools import mask as coco_mask
    rng = np.random.default_rng(0)
    for share in (0, .02, .5, .98, 1):
        mask = (rng.random(size) < share).astype(np.uint8)
        packed = coco_mask.encode(np.asfortranarray(mask))
        plain = dict(size=list(size), counts=run_lengths(packed['counts'].decode()))
        for rle in (packed, plain):
            assert (rle_to_bitmap(rle, *size) == mask).all() and rle_to_bitmap(rle, *size).dtype == np.uint8


@pytest.mark.parametrize(('counts', 'message'), [
    ('~~', 'damaged after 0 runs'), ('1~', 'damaged after 1 runs'), ('P', 'break off'), ('P' * 10**5, 'damaged'), ('é', 'damaged'),
    ('7', 'add up to 7, expected 3x2'), ([1, 2], 'add up to 3, expected 3x2'), ([-1, 7], 'add up to 6, expected 3x2'),
    ([1., 5], 'not whole numbers'), (['6'], 'not whole numbers')])
def test_broken_run_lengths_are_said_and_harm_nothing(counts, message):
    with pytest.raises(ValueError, match=message):
        rle_to_bitmap(dict(size=[3, 2], counts=counts), 3, 2)


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r'\(4, 4\).*expected \(5, 4\)'):
        BitmapMasks(np.zeros((1, 4, 4), np.uint8), 5, 4)
