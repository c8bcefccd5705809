from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detkit.data.transforms.crop import FilterAnnotations, RandomCrop
from detkit.data.transforms.geometry import (
    FixScaleResize,
    Pad,
    RandomChoiceResize,
    RandomFlip,
    RandomResize,
    Resize,
    ResizeShortestEdge,
)
from detkit.registry import ConfigError
from detkit.structures import BitmapMasks, PolygonMasks


def results(boxes=((10, 5, 30, 25), (0, 0, 64, 48)), size=(48, 64), masks='bitmap', seed=0) -> dict:
    """An image with rectangles as objects, drawn into masks as well."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    drawn = np.zeros((len(boxes), *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(drawn, boxes.astype(int)):
        mask[y1:y2, x1:x2] = 1
    polygons = [[np.array([x1, y1, x2, y1, x2, y2, x1, y2])] for x1, y1, x2, y2 in boxes]
    image = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return dict(img=image, img_shape=size, ori_shape=size, gt_bboxes=boxes, gt_bboxes_labels=np.arange(len(boxes)),
                gt_ignore_flags=np.zeros(len(boxes), bool), rng=np.random.default_rng(seed),
                gt_masks=BitmapMasks(drawn, *size) if masks == 'bitmap' else PolygonMasks(polygons, *size))


def test_resize_keeps_the_shape_and_rounds_as_mmcv():
    out = Resize(scale=(100, 60), keep_ratio=True)(results())
    assert out['img'].shape == (60, 80, 3) and out['img_shape'] == (60, 80)
    assert out['scale_factor'] == (80 / 64, 60 / 48)
    assert out['gt_bboxes'].tolist() == [[12.5, 6.25, 37.5, 31.25], [0, 0, 80, 60]]
    assert Resize(scale=(33, 33), keep_ratio=True)(results(size=(47, 64)))['img'].shape[:2] == (24, 33)   # 47 * 33/64 = 24.2


def test_resize_without_ratio_scales_each_side_and_factors_accumulate():
    out = Resize(scale=(32, 96))(results())
    assert out['img'].shape == (96, 32, 3) and out['scale_factor'] == (0.5, 2.0)
    out = Resize(scale_factor=2.0)(out)
    assert out['img'].shape == (192, 64, 3) and out['scale_factor'] == (1.0, 4.0)


@pytest.mark.parametrize('kind', ['bitmap', 'polygon'])
@pytest.mark.parametrize('direction,expected', [('horizontal', [34, 5, 54, 25]), ('vertical', [10, 23, 30, 43]),
                                                ('diagonal', [34, 23, 54, 43])])
def test_flip_moves_boxes_masks_and_pixels_together(kind, direction, expected):
    before = results(masks=kind)
    image = before['img'].copy()
    out = RandomFlip(prob=1.0, direction=direction)(before)
    assert out['gt_bboxes'][0].tolist() == expected and out['flip'] and out['flip_direction'] == direction
    assert out['gt_masks'].get_bboxes()[0].tolist() == expected
    across = {'horizontal': np.s_[:, ::-1], 'vertical': np.s_[::-1], 'diagonal': np.s_[::-1, ::-1]}[direction]
    assert (out['img'] == image[across]).all()
    again = RandomFlip(prob=1.0, direction=direction)(out)
    assert again['gt_bboxes'][0].tolist() == [10, 5, 30, 25] and (again['img'] == image).all()


def test_flip_directions_share_a_probability_or_have_their_own():
    def share(flip):
        counts = dict.fromkeys(['horizontal', 'vertical', None], 0)
        for seed in range(600):
            counts[flip(results(seed=seed))['flip_direction']] += 1
        return [counts[k] / 600 for k in counts]
    assert np.allclose(share(RandomFlip(0.5, ['horizontal', 'vertical'])), [.25, .25, .5], atol=.07)
    assert np.allclose(share(RandomFlip([.6, .1], ['horizontal', 'vertical'])), [.6, .1, .3], atol=.07)


def test_pad_fills_right_and_bottom_only():
    out = Pad(size=(80, 50), pad_val=dict(img=(1, 2, 3)))(results())
    assert out['img'].shape == (50, 80, 3) and out['img'][49, 79].tolist() == [1, 2, 3] and out['img_shape'] == (50, 80)
    assert out['gt_bboxes'][0].tolist() == [10, 5, 30, 25] and out['gt_masks'].masks.shape[1:] == (50, 80)
    assert Pad(size_divisor=32)(results())['img'].shape == (64, 64, 3)
    assert Pad(pad_to_square=True)(results())['img'].shape == (64, 64, 3)
    assert Pad(size=(20, 20))(results())['img'].shape == (48, 64, 3)       # nothing is cut


def test_crop_drops_what_lies_outside_and_cuts_the_rest():
    crop = RandomCrop(crop_size=(30, 48))
    for seed in range(20):
        out = crop(results(seed=seed))
        assert out['img'].shape == (48, 30, 3)
        boxes = out['gt_bboxes']
        assert (boxes >= 0).all() and (boxes[:, 2] <= 30).all() and len(boxes) == len(out['gt_bboxes_labels']) == len(out['gt_masks'])
        assert np.abs(out['gt_masks'].get_bboxes() - boxes).max() <= 1


def test_crop_without_objects_gives_none_unless_allowed():
    nothing = results(boxes=())
    assert RandomCrop(crop_size=(10, 10))(nothing) is None
    assert RandomCrop(crop_size=(10, 10), allow_negative_crop=True)(results(boxes=()))['gt_bboxes'].shape == (0, 4)


@pytest.mark.parametrize('kind,size,low,high', [
    ('absolute', (20, 100), (48, 20), (48, 20)), ('absolute_range', (10, 20), (10, 10), (20, 20)),
    ('relative', (.25, .5), (24, 16), (24, 16)), ('relative_range', (.5, .25), (24, 16), (48, 64))])
def test_crop_sizes(kind, size, low, high):
    """Sizes (height, width). MMDetection's crop_size is (width, height), except the share of 'relative_range': (height, width)."""
    shapes = [RandomCrop(size, kind, allow_negative_crop=True)(results(seed=s))['img'].shape[:2] for s in range(30)]
    assert all(low[0] <= h <= max(high[0], low[0]) and low[1] <= w <= max(high[1], low[1]) for h, w in shapes)


def test_random_resizes_stay_in_range_and_follow_their_rng():
    for seed in range(20):
        size = RandomResize(scale=(64, 48), ratio_range=(.5, 2.))(results(seed=seed))['img'].shape
        assert 24 <= size[0] <= 96 and abs(size[0] / size[1] - 1) < 2          # ratio not kept by default
        wide = RandomResize(scale=[(64, 30), (64, 48)], keep_ratio=True)(results(seed=seed))['img'].shape
        assert 30 <= wide[0] <= 48
        assert RandomChoiceResize(scales=[(32, 24), (64, 48)])(results(seed=seed))['img'].shape[:2] in ((24, 32), (48, 64))
    a, b = (RandomResize(scale=(64, 48), ratio_range=(.5, 2.))(results(seed=3))['img'] for _ in range(2))
    assert (a == b).all()


@pytest.mark.parametrize('size,scale,rounded,truncated', [
    ((200, 300), (101, 201), (101, 152), (101, 151)), ((48, 64), (47, 91), (47, 63), (47, 62)), ((65, 43), (50, 70), (70, 46), (70, 46)),
    ((427, 640), (1333, 800), (800, 1199), (800, 1199)), ((333, 500), (1333, 800), (800, 1201), (800, 1201))])
def test_sides_are_rounded_or_truncated_as_in_mmdetection(size, scale, rounded, truncated):
    """Sizes (height, width) that MMDetection 3.3.0's Resize and FixScaleResize give with keep_ratio."""
    for transform, expected in ((Resize, rounded), (FixScaleResize, truncated)):
        out = transform(scale=scale, keep_ratio=True)(results(size=size))
        assert out['img_shape'] == out['img'].shape[:2] == expected == (out['gt_masks'].height, out['gt_masks'].width)
        assert out['scale_factor'] == pytest.approx((expected[1] / size[1], expected[0] / size[0]))
    assert FixScaleResize(scale=scale)(results(size=size))['img_shape'] == scale[::-1]
    by_choice = RandomChoiceResize(scales=[scale], resize_type='FixScaleResize', keep_ratio=True)
    assert by_choice(results(size=size))['img_shape'] == truncated


def test_sides_of_two_scales_are_drawn_each_on_its_own_as_width_and_height():
    shapes = [RandomResize(scale=[(40, 90), (60, 20)])(results(seed=s))['img'].shape for s in range(30)]
    assert all(20 <= h <= 90 and 40 <= w <= 60 for h, w, _ in shapes) and min(shapes)[0] < 40 and max(shapes)[0] > 60


@pytest.mark.parametrize('scale,max_size,expected', [(40, None, (40, 53)), ((50, 90), 70, (50, 67)), (47, 61, (46, 61))])
def test_the_shortest_edge_has_the_size_unless_the_longest_is_bounded(scale, max_size, expected):
    """Sizes (height, width) that MMDetection 3.3.0 gives for 64 x 48."""
    assert ResizeShortestEdge(scale, max_size)(results())['img_shape'] == expected
    assert ResizeShortestEdge(scale, max_size, keep_ratio=True)(results())['keep_ratio'] is True


def test_labels_of_a_map_change_places_where_it_is_flipped():
    given_map = np.array([[0, 1, 2], [4, 7, 1]], np.uint8)
    flip = RandomFlip(1.0, swap_seg_labels=[(1, 2), (4, 7)])
    out = flip(dict(img=np.zeros((2, 3, 3), np.uint8), gt_seg_map=given_map, rng=np.random.default_rng(0)))
    assert out['gt_seg_map'].tolist() == [[1, 2, 0], [2, 4, 7]]
    assert RandomFlip(1.0)(dict(img=np.zeros((2, 3, 3), np.uint8), gt_seg_map=given_map, rng=np.random.default_rng(0)))[
        'gt_seg_map'].tolist() == [[2, 1, 0], [1, 7, 4]]


@pytest.mark.parametrize('mode,row', [('edge', [1, 2, 3, 3, 3]), ('reflect', [1, 2, 3, 2, 1]), ('symmetric', [1, 2, 3, 3, 2])])
def test_padding_repeats_or_mirrors_pixels(mode, row):
    image = np.repeat(np.array([[[1], [2], [3]]], np.uint8), 3, 2)
    out = Pad(size=(5, 1), padding_mode=mode)(dict(img=image, gt_seg_map=image[..., 0].copy()))
    assert out['img'][0, :, 1].tolist() == row == out['gt_seg_map'][0].tolist()


def test_masks_without_boxes_are_cropped_too():
    without = results()
    del without['gt_bboxes']
    out = RandomCrop(crop_size=(30, 20))(without)
    assert (out['gt_masks'].height, out['gt_masks'].width) == (20, 30) == out['img'].shape[:2] and len(out['gt_masks']) == 2


def test_filter_drops_small_objects():
    tiny = results(boxes=((0, 0, 2, 9), (5, 5, 20, 20)))
    assert FilterAnnotations(min_gt_bbox_wh=(2, 2))(tiny)['gt_bboxes_labels'].tolist() == [1]
    assert FilterAnnotations(min_gt_bbox_wh=(50, 50))(results(boxes=((5, 5, 20, 20),))) is None
    assert len(FilterAnnotations(min_gt_bbox_wh=(50, 50), keep_empty=False)(results(boxes=((5, 5, 20, 20),)))['gt_bboxes']) == 0
    by_mask = FilterAnnotations(min_gt_mask_area=20, by_box=False, by_mask=True)(results(boxes=((0, 0, 2, 9), (5, 5, 20, 20))))
    assert by_mask['gt_bboxes_labels'].tolist() == [1]


box = st.tuples(st.integers(0, 50), st.integers(0, 34), st.integers(4, 14), st.integers(4, 14)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
TRANSFORMS = [Resize(scale=(96, 96), keep_ratio=True), Resize(scale=(37, 81)), RandomFlip(1.0, 'diagonal'), Pad(size=(100, 100)),
              RandomCrop((40, 50), allow_negative_crop=True), RandomResize(scale=(64, 48), ratio_range=(.7, 1.8), keep_ratio=True)]


@pytest.mark.parametrize('transform', TRANSFORMS, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize('kind', ['bitmap', 'polygon'])
@settings(max_examples=25, deadline=None)
@given(boxes=st.lists(box, max_size=4), seed=st.integers(0, 1000))
def test_a_box_drawn_into_a_mask_stays_its_box(transform, kind, boxes, seed):
    out = transform(results(boxes=boxes, masks=kind, seed=seed))
    assert len(out['gt_bboxes']) == len(out['gt_masks']) == len(out['gt_bboxes_labels'])
    assert (out['gt_masks'].height, out['gt_masks'].width) == out['img'].shape[:2] == out['img_shape']
    if len(out['gt_bboxes']):
        gap = np.abs(out['gt_masks'].get_bboxes() - out['gt_bboxes'])
        assert gap.max() <= max(1, 0.6 * max(out.get('scale_factor', (1, 1))) + .5)


def test_no_transform_touches_global_random_state():
    before = np.random.get_state()[1].copy()
    for transform in TRANSFORMS:
        transform(results())
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize('make,message', [
    (lambda: Resize(), 'one of scale'), (lambda: Resize(scale=(1, 1), interpolation='cubist'), "interpolation='cubist' is not offered"),
    (lambda: RandomFlip(0.5, 'sideways'), "direction='sideways' is unknown"),
    (lambda: RandomFlip([.5], ['horizontal', 'vertical']), 'one probability each'),
    (lambda: Pad(), 'needs size'), (lambda: Pad(size=(1, 1), padding_mode='wrap'), "padding_mode='wrap' is unknown"),
    (lambda: RandomFlip(.5, swap_seg_labels=[(1, 2, 3)]), 'must be pairs of labels'),
    (lambda: RandomCrop((30, 15), 'absolute_range'), r'must be \(min, max\)'),
    (lambda: Resize((9, 9), backend='pillow')(dict(img=np.zeros((4, 4, 3), np.float32))), 'needs uint8 images, given float32'),
    (lambda: FilterAnnotations()(dict(gt_bboxes_labels=np.zeros(1))), "needs 'gt_bboxes'. Set with_bbox=True"),
    (lambda: FilterAnnotations(by_mask=True)(dict(gt_bboxes=np.zeros((1, 4)))), "needs 'gt_masks'. Set with_mask=True"),
    (lambda: RandomCrop((.5, .5)), 'does not fit'), (lambda: RandomCrop((5, 5), 'absolut'), "crop_type='absolut'"),
    (lambda: RandomResize(scale=(5, 5)), 'ratio_range'), (lambda: FilterAnnotations(by_box=False), 'by_box or by_mask')])
def test_settings_that_mean_nothing_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
