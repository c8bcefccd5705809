from __future__ import annotations

import numpy as np
import pytest

from detkit.data.transforms.choose import RandomApply, RandomChoice, TestTimeAug
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
