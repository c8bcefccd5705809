from __future__ import annotations

import pytest

from detkit.data.transforms.auto_augment import AutoAugment, RandAugment, policies_v0
from detkit.registry import ConfigError


def test_the_default_policies_are_twenty_five_pairs():
    policies = policies_v0()
    assert len(policies) == 25 and all(len(p) == 2 for p in policies)
    assert policies[0] == [dict(type='Equalize', prob=.8, level=1), dict(type='ShearY', prob=.8, level=4)]
    assert policies[-1] == [dict(type='Color', prob=.8, level=6), dict(type='Rotate', prob=.4, level=5)]


def test_one_policy_is_drawn_by_its_probability(draw):
    augment = AutoAugment([[dict(type='Invert')], [dict(type='TranslateX', level=10, reversal_prob=1.0, img_border_value=0)]], prob=[0, 1])
    assert (augment(draw())['img'][:, :6] == 0).all()


def test_rand_augment_draws_different_operations(draw):
    twice = RandAugment([[dict(type='Invert')], [dict(type='Invert')]], aug_num=2)
    before = draw()
    assert (twice(dict(before))['img'] == before['img']).all()               # both, whatever the order
    level = dict(level=10, reversal_prob=1.0, img_border_value=0)
    two = RandAugment([[dict(type='TranslateX', **level)], [dict(type='TranslateY', **level)], [dict(type='Rotate', prob=0.0)]])
    moved = {((out['img'][24] == 0).all(-1)[0], (out['img'][:, 32] == 0).all(-1)[0]) for out in (two(draw(seed=s)) for s in range(20))}
    assert moved == {(True, True), (True, False), (False, True)}             # two of three, never one twice


@pytest.mark.parametrize('options', [dict(aug_num=3), dict(aug_num=0), dict(prob=[1.0])])
def test_counts_that_do_not_fit_are_refused(options):
    with pytest.raises(ConfigError, match='2 entries'):
        RandAugment([[dict(type='Invert')], [dict(type='Color')]], **options)
