"""Which priors enter the loss."""
from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detkit.registry import TASK_UTILS, ConfigError
from detkit.tasks.matching import IGNORED, NEGATIVE

MATCH = torch.tensor([0, NEGATIVE, IGNORED, 2, NEGATIVE, 1])


def sampler(kind: str, **cfg: object) -> object:
    return TASK_UTILS.build(dict(type=kind, **cfg))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_pseudo_sampler_takes_all_but_the_ignored():
    pos, neg = sampler('PseudoSampler')(MATCH)
    assert (pos.tolist(), neg.tolist()) == ([0, 3, 5], [1, 4])
    assert [sampler('PseudoSampler').avg_factor(n, 9) for n in (0, 1, 7)] == [1, 1, 7]


def test_with_room_for_all_the_random_sampler_takes_all():
    pos, neg = sampler('RandomSampler', num=100, pos_fraction=.5)(MATCH, generator())
    assert (pos.tolist(), neg.tolist()) == ([0, 3, 5], [1, 4])
    assert [sampler('RandomSampler', num=4, pos_fraction=.5).avg_factor(*n) for n in ((0, 0), (3, 0), (3, 5))] == [2, 4, 8]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([IGNORED, NEGATIVE, 0, 1, 2]), max_size=40), st.integers(0, 30),
       st.sampled_from([0., .25, .5, 1.]), st.sampled_from([-1, 0, 1, 3]), st.integers(0, 100))
def test_a_sample_keeps_its_bounds(match: list[int], num: int, fraction: float, bound: int, seed: int):
    match = torch.tensor(match, dtype=torch.long)
    pos, neg = sampler('RandomSampler', num=num, pos_fraction=fraction, neg_pos_ub=bound)(match, generator(seed))
    positives, negatives = int((match >= 0).sum()), int((match == NEGATIVE).sum())
    assert (match[pos] >= 0).all()
    assert (match[neg] == NEGATIVE).all()
    assert len(pos) == min(positives, int(num * fraction))
    room = num - len(pos) if bound < 0 else min(num - len(pos), bound * max(1, len(pos)))
    assert len(neg) == min(negatives, room)
    for taken in (pos, neg):
        assert taken.tolist() == sorted(set(taken.tolist()))


def test_the_generator_alone_decides():
    match = torch.full((500,), NEGATIVE)
    match[:200] = 0
    take = sampler('RandomSampler', num=40, pos_fraction=.5)
    first, again, other = (torch.cat(take(match, generator(s))).tolist() for s in (1, 1, 2))
    assert first == again != other
    before = torch.get_rng_state()
    take(match, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_every_prior_has_the_same_chance():
    match = torch.full((10,), NEGATIVE)
    take, counts, source = sampler('RandomSampler', num=3, pos_fraction=.5), torch.zeros(10), generator()
    for _ in range(3000):
        counts[take(match, source)[1]] += 1
    assert (counts / 3000 - .3).abs().max() < .03          # three standard deviations and a half


def test_a_wrong_fraction_is_refused():
    with pytest.raises(ConfigError, match=r'RandomSampler pos_fraction=1.5 must lie in \[0, 1\]'):
        sampler('RandomSampler', num=4, pos_fraction=1.5)
