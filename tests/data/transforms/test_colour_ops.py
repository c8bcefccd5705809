from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from detkit.registry import TRANSFORMS, ConfigError

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8) // 2 + 40


def apply(name: str, level: int, **options) -> np.ndarray:
    transform = TRANSFORMS.build(dict(type=name, level=level, **options))
    return transform(dict(img=PICTURE.copy(), rng=np.random.default_rng(0)))['img']


@pytest.mark.parametrize('name,level,expected', [
    ('Invert', 3, lambda i: ImageOps.invert(i)), ('Solarize', 5, lambda i: ImageOps.solarize(i, 128)),
    ('Posterize', 10, lambda i: ImageOps.posterize(i, 4)), ('Equalize', 3, lambda i: ImageOps.equalize(i)),
    ('AutoContrast', 3, lambda i: ImageOps.autocontrast(i)), ('Brightness', 0, lambda i: ImageEnhance.Brightness(i).enhance(0.1)),
    ('Contrast', 0, lambda i: ImageEnhance.Contrast(i).enhance(0.1)), ('Color', 0, lambda i: ImageEnhance.Color(i).enhance(0.1))])
def test_operations_agree_with_pillows(name, level, expected):
    rgb = np.asarray(expected(Image.fromarray(PICTURE[..., ::-1].copy())))[..., ::-1]
    assert np.abs(apply(name, level).astype(int) - rgb).max() <= (2 if name == 'Color' else 1)    # Pillow rounds the grey first


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('name', ['Color', 'Brightness', 'Contrast', 'Sharpness'])
def test_the_middle_level_changes_nothing(name, dtype):
    out = TRANSFORMS.build(dict(type=name, level=5))(dict(img=PICTURE.astype(dtype), rng=np.random.default_rng(0)))['img']
    assert out.dtype == dtype and (out == PICTURE).all()


STRIPES = np.repeat(np.array([40, 41, 77, 100, 123, 150, 200, 201], np.uint8)[None, :, None], 3, 2)


@pytest.mark.parametrize('name,level,expected', [
    ('Brightness', 8, [[60, 255], [61, 255], [115, 225], [169, 169], [184, 150], [225, 115], [255, 61], [255, 60]]),
    ('Contrast', 8, [[2, 243], [3, 242], [57, 167], [111, 111], [126, 92], [167, 57], [242, 3], [243, 2]]),
    ('Sharpness', 8, [[40, 201], [37, 205], [78, 147], [117, 109], [122, 100], [147, 78], [205, 37], [201, 40]]),
    ('Color', 8, [[0, 234], [0, 233], [56, 165], [113, 113], [130, 96], [172, 62], [246, 8], [248, 7]]),
    ('Solarize', 3, [[40, 54], [41, 55], [178, 105], [142, 142], [132, 155], [105, 178], [55, 41], [54, 40]]),
    ('SolarizeAdd', 3, [[73, 201], [74, 200], [110, 150], [146, 146], [156, 133], [150, 110], [200, 74], [201, 73]]),
    ('Posterize', 5, [[0, 192], [0, 192], [64, 128], [64, 64], [64, 64], [128, 64], [192, 0], [192, 0]])])
def test_levels_are_those_of_mmdetection(name, level, expected):
    """Recorded from MMDetection 3.3.0 with mmcv 2.1.0: blue and green of the middle row; red is as blue."""
    image = STRIPES.copy()
    image[0, :, 1] = image[0, ::-1, 1]
    image = np.repeat(image, 3, 0)
    image[1, 3] = 113
    out = TRANSFORMS.build(dict(type=name, level=level))(dict(img=image, rng=np.random.default_rng(0)))['img']
    assert out[1, :, :2].tolist() == expected and (out[1, :, 2] == out[1, :, 0]).all()


def test_contrast_is_stretched_and_truncated_as_in_mmcv():
    out = TRANSFORMS.build(dict(type='AutoContrast'))(dict(img=STRIPES.copy(), rng=np.random.default_rng(0)))['img']
    assert out[0, :, 0].tolist() == [0, 1, 58, 95, 131, 174, 253, 255]         # recorded from mmcv 2.1.0


@pytest.mark.parametrize('name', ['Posterize', 'Equalize', 'AutoContrast'])
def test_operations_on_levels_refuse_float_images(name):
    with pytest.raises(ConfigError, match=f'{name} needs uint8 images, given float32. Set to_float32=False'):
        TRANSFORMS.build(dict(type=name))(dict(img=PICTURE.astype(np.float32), rng=np.random.default_rng(0)))


@pytest.mark.parametrize('name,bounds', [
    ('Color', (0., 2.1)), ('Solarize', (-1., 9.)), ('SolarizeAdd', (0., 111.)), ('Posterize', (0., 9.))])
def test_magnitudes_beyond_what_an_operation_means_are_refused(name, bounds):
    with pytest.raises(ConfigError, match='min_mag at most max_mag, both in'):
        TRANSFORMS.build(dict(type=name, min_mag=bounds[0], max_mag=bounds[1]))


def test_sharpness_one_changes_nothing_and_less_smooths():
    assert (apply('Sharpness', 5) == PICTURE).all()
    assert apply('Sharpness', 0).astype(float).std() < PICTURE.astype(float).std() * 0.7


def test_solarize_add_lifts_the_dark_levels_only():
    out, dark = apply('SolarizeAdd', 10), PICTURE < 128
    assert (out[dark] == np.minimum(PICTURE[dark].astype(int) + 110, 255)).all() and (out[~dark] == PICTURE[~dark]).all()


def test_the_identity_and_a_probability_of_zero_change_nothing():
    assert (apply('ColorTransform', 3) == PICTURE).all() and (apply('Invert', 3, prob=0.0) == PICTURE).all()


def test_an_even_image_is_left_by_the_stretching_ones():
    for name in ('Equalize', 'AutoContrast'):
        flat = np.full((8, 8, 3), 90, np.uint8)
        assert (TRANSFORMS.build(dict(type=name))(dict(img=flat, rng=np.random.default_rng(0)))['img'] == 90).all()
