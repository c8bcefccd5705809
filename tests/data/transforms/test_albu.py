from __future__ import annotations

import math

import numpy as np
import pytest

from detkit.data.transforms.albu import Albu, translated
from detkit.registry import ConfigError

MMDETECTION = [    # mask-rcnn_r50_fpn_albu-1x_coco.py
    dict(type='ShiftScaleRotate', shift_limit=0.0625, scale_limit=0.0, rotate_limit=0, interpolation=1, p=0.5),
    dict(type='RandomBrightnessContrast', brightness_limit=[0.1, 0.3], contrast_limit=[0.1, 0.3], p=0.2),
    dict(type='OneOf', p=0.1, transforms=[dict(type='RGBShift', r_shift_limit=10, g_shift_limit=10, b_shift_limit=10, p=1.0),
                                          dict(type='HueSaturationValue', hue_shift_limit=20, sat_shift_limit=30, val_shift_limit=20)]),
    dict(type='JpegCompression', quality_lower=85, quality_upper=95, p=0.2), dict(type='ChannelShuffle', p=0.1),
    dict(type='OneOf', p=0.1, transforms=[dict(type='Blur', blur_limit=3, p=1.0), dict(type='MedianBlur', blur_limit=3, p=1.0)])]
PARAMS = dict(type='BboxParams', format='pascal_voc', label_fields=['gt_bboxes_labels', 'gt_ignore_flags'], min_visibility=0.0,
              filter_lost_elements=True)
KEYMAP = {'img': 'image', 'gt_masks': 'masks', 'gt_bboxes': 'bboxes'}


@pytest.mark.filterwarnings('error:Argument')
def test_mmdetections_transforms_run_and_everything_moves_together(draw):
    albu = Albu(MMDETECTION, bbox_params=PARAMS, keymap=KEYMAP, skip_img_without_anno=True)
    for seed in range(30):
        out = albu(draw(seed=seed))
        assert len(out['gt_bboxes']) == len(out['gt_masks']) == len(out['gt_bboxes_labels']) == len(out['gt_ignore_flags']) == 2
        assert np.abs(out['gt_masks'].get_bboxes() - out['gt_bboxes']).max() <= 1.01


def test_a_flip_flips_boxes_masks_and_pixels(draw):
    before = draw()
    image = before['img'].copy()
    out = Albu([dict(type='HorizontalFlip', p=1.0)])(before)
    assert (out['img'] == image[:, ::-1]).all() and np.allclose(out['gt_bboxes'][0], [34, 5, 54, 25], atol=1e-3)
    assert out['gt_masks'].get_bboxes()[0].tolist() == [34, 5, 54, 25]


def test_objects_that_leave_take_their_label_and_mask_along(draw):
    crop = [dict(type='Crop', x_min=32, y_min=0, x_max=64, y_max=48, p=1.0)]
    out = Albu(crop)(draw([(2, 5, 30, 25), (40, 8, 60, 30)]))
    assert out['gt_bboxes_labels'].tolist() == [1] and np.allclose(out['gt_bboxes'], [[8, 8, 28, 30]], atol=1e-3)
    assert len(out['gt_masks']) == 1 and out['img_shape'] == (48, 32) == (out['gt_masks'].height, out['gt_masks'].width)
    assert Albu(crop, skip_img_without_anno=True)(draw([(2, 5, 30, 25)])) is None


@pytest.mark.parametrize('old,new', [
    (dict(type='JpegCompression', quality_lower=85, quality_upper=95), dict(type='ImageCompression', quality_range=(85, 95))),
    (dict(type='Cutout', num_holes=4, max_h_size=8, max_w_size=6, fill_value=3),
     dict(type='CoarseDropout', num_holes_range=(4, 4), hole_height_range=(8, 8), hole_width_range=(6, 6), fill=3)),
    (dict(type='CoarseDropout', max_holes=4, max_height=8, max_width=6, min_holes=1),
     dict(type='CoarseDropout', num_holes_range=(1, 4), hole_height_range=(8, 8), hole_width_range=(6, 6))),
    (dict(type='GaussNoise', var_limit=(25, 100)), dict(type='GaussNoise', std_range=(5 / 255, 10 / 255))),
    (dict(type='GaussNoise', var_limit=40), dict(type='GaussNoise', std_range=(math.sqrt(10) / 255, math.sqrt(40) / 255))),
    (dict(type='RandomResizedCrop', height=3, width=4), dict(type='RandomResizedCrop', size=(3, 4))),
    (dict(type='ShiftScaleRotate', value=3, always_apply=True), dict(type='ShiftScaleRotate', fill=3, p=1.0)),
    (dict(type='RandomBrightness', limit=0.3), dict(type='RandomBrightnessContrast', brightness_limit=0.3, contrast_limit=0)),
    (dict(type='Downscale', scale_min=0.3, scale_max=0.5), dict(type='Downscale', scale_range=(0.3, 0.5))),
    (dict(type='Blur', blur_limit=3), dict(type='Blur', blur_limit=3))])
def test_old_names_are_translated(old, new):
    assert translated(old) == new
    Albu([old])


@pytest.mark.parametrize('transforms,words', [
    ([dict(type='Blurr')], "no 'Blurr'.*Blur"), ([dict(type='Blur', blur=3)], r'transforms\[0\]: Blur does not take'),
    ([dict(type='OneOf', transforms=[dict(type='Blur', radius=3)])], r'transforms\[0\].transforms\[0\]: Blur'), (['Blur'], 'with a type')])
def test_unknown_names_and_arguments_are_refused(transforms, words):
    with pytest.raises(ConfigError, match=words):
        Albu(transforms)


def test_other_conventions_are_refused(draw):
    with pytest.raises(ConfigError, match='pascal_voc'):
        Albu([], bbox_params=dict(type='BboxParams', format='coco'))
    with pytest.raises(ConfigError, match='keymap'):
        Albu([], keymap={'img': 'picture'})
    with pytest.raises(ConfigError, match='poly2mask'):
        Albu([])(draw(masks='polygon'))
