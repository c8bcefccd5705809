from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from detkit.registry import TRANSFORMS

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
