from __future__ import annotations

import numpy as np
import pytest

from detkit.data.compose import Compose
from detkit.data.transforms.mix import MixUp, Mosaic
from detkit.structures import BitmapMasks


def sample(index: int, size=(40, 60)) -> dict:
    """An image of one grey value, its index times ten, with one object."""
    box = np.array([[10, 8, 40, 30]], np.float32)
    mask = np.zeros((1, *size), np.uint8)
    mask[0, 8:30, 10:40] = 1
    return dict(img=np.full((*size, 3), 10 * index, np.uint8), img_shape=size, gt_bboxes=box, gt_bboxes_labels=np.array([index]),
                gt_ignore_flags=np.zeros(1, bool), gt_masks=BitmapMasks(mask, *size))


def run(transform, index=3, seed=0, load=sample) -> dict:
    return Compose([transform], load=load, num_samples=lambda: 9)(load(index), (seed, 0, index))


def test_a_mosaic_holds_parts_of_four_images_around_its_centre():
    out = run(Mosaic(img_scale=(60, 40)))
    assert out['img'].shape == (80, 120, 3) and out['img_shape'] == (80, 120)
    assert 30 in np.unique(out['img']) and len(np.unique(out['img'])) >= 3
    assert 1 <= len(out['gt_bboxes']) == len(out['gt_bboxes_labels']) == len(out['gt_masks']) <= 4
    boxes = out['gt_bboxes']
    assert (boxes >= 0).all() and (boxes[:, 2] <= 120).all() and (boxes[:, 3] <= 80).all()


def test_mosaic_boxes_lie_on_their_objects():
    for seed in range(8):
        out = run(Mosaic(img_scale=(60, 40)), seed=seed)
        assert np.abs(out['gt_masks'].get_bboxes() - out['gt_bboxes']).max() <= 1
        for (x1, y1, x2, y2), label in zip(out['gt_bboxes'].astype(int), out['gt_bboxes_labels']):
            inside = out['img'][y1:y2, x1:x2]
            assert inside.size == 0 or (inside == 10 * label).all()


def test_other_sizes_are_fitted_into_the_mosaics_scale():
    out = run(Mosaic(img_scale=(60, 40), center_ratio_range=(1.0, 1.0)), load=lambda i: sample(i, (80, 120)))
    assert (out['gt_bboxes'][:, 2] - out['gt_bboxes'][:, 0] == 15).all()       # 30 pixels at half the size


def test_probability_zero_changes_nothing():
    for transform in (Mosaic(prob=0), MixUp(prob=0)):
        assert run(transform)['img'].shape == (40, 60, 3)


def test_mixup_is_half_of_each_with_the_objects_of_both():
    out = run(MixUp(img_scale=(60, 40), ratio_range=(1.0, 1.0), flip_ratio=1.0))
    other = int(out['gt_bboxes_labels'][1])
    assert out['gt_bboxes_labels'].tolist() == [3, other]
    assert (out['img'] == int(15 + 5 * other)).all()
    assert out['gt_bboxes'].tolist() == [[10, 8, 40, 30]] * 2


def test_mixup_flips_and_crops_the_other_with_its_boxes():
    for seed in range(8):
        out = run(MixUp(img_scale=(60, 40), ratio_range=(.5, 1.5), flip_ratio=.5), seed=seed)
        assert out['img'].shape == (40, 60, 3)
        assert np.abs(out['gt_masks'].get_bboxes() - out['gt_bboxes']).max() <= 1.5


def test_mixed_pixels_and_boxes_are_those_of_mmdetection():
    """Worked out by MMDetection 3.3.0's rule: resized in float64 (0, 0.75, 2.25, 3), truncated (0, 0, 2, 3), then halves are added."""
    def load(index: int) -> dict:
        size, row = ((2, 4), [1] * 4) if index == 3 else ((1, 2), [0, 3])
        image = np.repeat(np.repeat(np.array(row, np.uint8)[None, :, None], 3, 2), size[0], 0)
        return dict(img=image, img_shape=size, gt_bboxes=np.array([[0, 0, 1, 1]], np.float32), gt_bboxes_labels=np.array([index]),
                    gt_ignore_flags=np.zeros(1, bool))
    mixup = dict(img_scale=(2, 1), ratio_range=(2., 2.))
    out = Compose([MixUp(**mixup, flip_ratio=1.)], load=load, num_samples=lambda: 3)(load(3), (0, 0, 3))
    assert out['img'][:, :, 0].tolist() == [[0, 0, 1, 2]] * 2 and out['gt_bboxes'].tolist() == [[0, 0, 1, 1], [0, 0, 2, 2]]
    flipped = Compose([MixUp(**mixup, flip_ratio=0.)], load=load, num_samples=lambda: 3)(load(3), (0, 0, 3))
    assert flipped['img'][:, :, 0].tolist() == [[2, 1, 0, 0]] * 2 and flipped['gt_bboxes'].tolist() == [[0, 0, 1, 1], [2, 0, 4, 2]]


def test_mosaic_boxes_are_scaled_by_the_factor_and_not_by_whole_pixels():
    out = run(Mosaic(img_scale=(50, 40), center_ratio_range=(1.0, 1.0), bbox_clip_border=False), load=lambda i: sample(i, (30, 47)))
    assert np.allclose(out['gt_bboxes'][:, 2] - out['gt_bboxes'][:, 0], 30 * 50 / 47)      # 50 x 31 pixels, of 50 x 31.9


def test_mixing_draws_again_until_an_object_is_found_and_gives_up_quietly():
    def empty(index: int) -> dict:
        return dict(sample(index), gt_bboxes=np.zeros((0, 4), np.float32), gt_bboxes_labels=np.zeros(0, int),
                    gt_ignore_flags=np.zeros(0, bool), gt_masks=BitmapMasks([], 40, 60))
    assert run(MixUp(img_scale=(60, 40)), load=empty)['gt_bboxes'].shape == (0, 4)
    assert run(Mosaic(img_scale=(60, 40)), load=empty)['gt_bboxes'].shape == (0, 4)


def test_a_sample_is_the_same_whatever_was_made_before_it():
    compose = Compose([Mosaic(img_scale=(60, 40)), MixUp(img_scale=(60, 40))], load=sample, num_samples=lambda: 9)
    first = compose(sample(3), (0, 0, 3))['img']
    for i in range(5):
        compose(sample(i), (0, 0, i))
    assert (compose(sample(3), (0, 0, 3))['img'] == first).all()


def test_partners_that_are_all_dropped_are_said():
    dropped = Compose([lambda r: None if r['index'] != 3 else r, Mosaic()], load=lambda i: dict(sample(i), index=i), num_samples=lambda: 1)
    dropped.load = lambda i: dict(sample(i), index=0)
    with pytest.raises(ValueError, match='all dropped by the pipeline'):
        dropped(dict(sample(3), index=3), (0, 0, 3))
