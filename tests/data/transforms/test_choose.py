from __future__ import annotations

import numpy as np
import pytest

from detkit.data.transforms.choose import MultiBranch, RandomApply, RandomChoice, RandomOrder, TestTimeAug
from detkit.registry import ConfigError

FLIP = dict(type='RandomFlip', prob=1.0)
IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def results(seed=0) -> dict:
    return dict(img=IMAGE.copy(), img_shape=(2, 4), rng=np.random.default_rng(seed))


def test_one_of_several_pipelines_is_run():
    choice = RandomChoice([[FLIP], [dict(type='Resize', scale=(8, 4))]], prob=[.3, .7])
    shapes = [choice(results(s))['img'].shape[:2] for s in range(300)]
    assert abs(shapes.count((2, 4)) / 300 - .3) < .09 and set(shapes) == {(2, 4), (4, 8)}
    with pytest.raises(ConfigError, match='one probability for each'):
        RandomChoice([[FLIP]], prob=[.5, .5])


def test_a_pipeline_is_applied_with_its_probability():
    apply = RandomApply([FLIP], prob=.25)
    flipped = sum((apply(results(s))['img'] != IMAGE).any() for s in range(300))
    assert abs(flipped / 300 - .25) < .09


def test_every_combination_of_alternatives_is_packed():
    tta = TestTimeAug([[dict(type='Resize', scale=(4, 2)), dict(type='Resize', scale=(8, 4))],
                       [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],
                       [dict(type='PackDetInputs', meta_keys=('flip', 'scale_factor'))]])
    out = tta(results())
    assert [tuple(x.shape) for x in out['inputs']] == [(3, 2, 4), (3, 2, 4), (3, 4, 8), (3, 4, 8)]
    assert [s.flip for s in out['data_samples']] == [True, False, True, False]
    assert [s.scale_factor for s in out['data_samples']] == [(1, 1)] * 2 + [(2, 2)] * 2


def test_an_order_is_drawn_and_all_are_run():
    order = RandomOrder([dict(type='Resize', scale=(8, 4)), [dict(type='Pad', size=(6, 6)), FLIP]])
    sizes = {order(results(s))['img'].shape[:2] for s in range(30)}
    assert sizes == {(6, 8), (4, 8)}                       # resized, then padded to 6 rows; or padded, then resized


def test_branches_are_views_of_one_image():
    pack = dict(type='PackDetInputs', meta_keys=('img_shape',))
    branch = MultiBranch(['sup', 'weak', 'strong'], weak=pack, strong=[dict(type='Resize', scale=(8, 4)), pack])
    out = branch(results())
    assert list(out) == ['inputs', 'data_samples'] and out['inputs']['sup'] is None is out['data_samples']['sup']
    assert out['inputs']['weak'].shape == (3, 2, 4) and out['inputs']['strong'].shape == (3, 4, 8)
    assert out['data_samples']['strong'].img_shape == (4, 8)
    drop = MultiBranch(['weak'], weak=[dict(type='RandomCrop', crop_size=(1, 1))])
    assert drop({**results(), 'gt_bboxes': np.zeros((0, 4), np.float32)}) is None
    with pytest.raises(ConfigError, match="'strong'.*branch_field"):
        MultiBranch(['weak'], strong=pack)
