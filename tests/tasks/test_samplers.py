"""Which priors enter the loss."""
from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detkit.registry import TASK_UTILS, ConfigError
from detkit.tasks.matching import IGNORED, NEGATIVE, Match

MATCH = Match(torch.tensor([0, NEGATIVE, IGNORED, 2, NEGATIVE, 1]))


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
@given(st.lists(st.sampled_from([IGNORED, NEGATIVE, 0, 1, 2]), max_size=40), st.integers(1, 30),
       st.sampled_from([0., .25, .5, 1.]), st.sampled_from([-1, 0, 1, 3]), st.integers(0, 100))
def test_a_sample_keeps_its_bounds(match: list[int], num: int, fraction: float, bound: int, seed: int):
    match = torch.tensor(match, dtype=torch.long)
    pos, neg = sampler('RandomSampler', num=num, pos_fraction=fraction, neg_pos_ub=bound)(Match(match), generator(seed))
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
    first, again, other = (torch.cat(take(Match(match), generator(s))).tolist() for s in (1, 1, 2))
    assert first == again != other
    before = torch.get_rng_state()
    take(Match(match), generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_every_prior_has_the_same_chance():
    match = torch.full((10,), NEGATIVE)
    take, counts, source = sampler('RandomSampler', num=3, pos_fraction=.5), torch.zeros(10), generator()
    for _ in range(3000):
        counts[take(Match(match), source)[1]] += 1
    assert (counts / 3000 - .3).abs().max() < .03          # three standard deviations and a half


def test_a_wrong_fraction_is_refused():
    with pytest.raises(ConfigError, match=r'pos_fraction: is 1.5; it should be in \[0, 1\]'):
        sampler('RandomSampler', num=4, pos_fraction=1.5)


def few_of_one_object_many_of_another() -> Match:
    index = torch.full((100,), NEGATIVE)
    index[:40], index[40:45] = 0, 1
    return Match(index)


def test_a_balanced_sample_takes_as_many_positives_of_each_object():
    match = few_of_one_object_many_of_another()
    pos, _ = sampler('InstanceBalancedPosSampler', num=20, pos_fraction=.5)(match, generator())
    assert len(pos) == 10 and (match.index[pos] == 1).sum() >= 4      # 6 of each are drawn where there are 6, then 10 kept
    everything, _ = sampler('InstanceBalancedPosSampler', num=200, pos_fraction=.5)(match, generator())
    assert everything.tolist() == list(range(45))


def test_what_a_rare_object_cannot_give_another_gives():
    index = torch.full((100,), NEGATIVE)
    index[:40], index[40] = 0, 1
    pos, _ = sampler('InstanceBalancedPosSampler', num=60, pos_fraction=.5)(Match(index), generator())
    assert len(pos) == 30 == len(set(pos.tolist())) and index[pos].bincount().tolist() in ([29, 1], [30, 0])


def negatives_of(ious: list[float], **cfg: object) -> list[float]:
    overlap = torch.tensor([*ious, .9])
    index = torch.full((len(overlap),), NEGATIVE)
    index[-1] = 0
    take = sampler('IoUBalancedNegSampler', pos_fraction=.5, **cfg)
    return [round(v, 2) for v in overlap[take.negatives(Match(index, overlap=overlap), take.num, generator())].tolist()]


def test_negatives_come_evenly_from_ranges_of_iou():
    # ranges up to the largest overlap of any prior: [0, 0.3), [0.3, 0.6), [0.6, 0.9]
    taken = negatives_of([.1] * 90 + [.4] * 5 + [.7] * 5, num=12)
    assert [taken.count(v) for v in (.1, .4, .7)] == [4, 4, 4]
    short = negatives_of([.1] * 90 + [.4] * 2, num=12)
    assert len(short) == 12 and short.count(.4) == 2
    assert len(negatives_of([.1] * 5, num=12)) == 5


def test_easy_negatives_get_their_share_alone():
    taken = negatives_of([0.] * 50 + [.4] * 50, num=10, floor_thr=.1, floor_fraction=.2, num_bins=2)
    assert (taken.count(0.), taken.count(.4)) == (2, 8)
    none = negatives_of([0.] * 50 + [.4] * 50, num=10, floor_thr=0, num_bins=1)
    assert none.count(.4) == 10


def test_a_combined_sampler_hands_its_numbers_down():
    both = sampler('CombinedSampler', num=20, pos_fraction=.25, neg_pos_ub=2, pos_sampler=dict(type='InstanceBalancedPosSampler'),
                   neg_sampler=dict(type='IoUBalancedNegSampler', num=7))
    assert (both.pos_sampler.num, both.pos_sampler.pos_fraction, both.neg_sampler.num) == (20, .25, 7)
    match = few_of_one_object_many_of_another()
    pos, neg = both(Match(match.index, overlap=torch.rand(100)), generator())
    assert (len(pos), len(neg)) == (5, 10)
    assert (match.index[pos] >= 0).all() and (match.index[neg] == NEGATIVE).all()


def test_a_balance_of_overlaps_needs_overlaps():
    with pytest.raises(ConfigError, match='an assigner that tells overlaps'):
        sampler('IoUBalancedNegSampler', num=4, pos_fraction=.5)(few_of_one_object_many_of_another(), generator())
    with pytest.raises(ConfigError, match=r'floor_thr: is 2; it should be in \[-1, 1\]'):
        sampler('IoUBalancedNegSampler', num=4, pos_fraction=.5, floor_thr=2)
