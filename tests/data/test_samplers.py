from __future__ import annotations

from itertools import islice

import pytest
from torch.utils.data import SequentialSampler

from detkit.data.samplers import (
    PASSES,
    AspectRatioBatchSampler,
    ClassAwareSampler,
    GroupMultiSourceSampler,
    InfiniteSampler,
    MultiSourceSampler,
)
from detkit.registry import ConfigError


class Shapes:
    """A data set of which only the shapes are known: w for wide, t for tall."""

    def __init__(self, shapes: str) -> None:
        self.shapes = shapes

    def __len__(self) -> int:
        return len(self.shapes)

    def get_data_info(self, i: int) -> dict:
        return dict(width=2, height=1) if self.shapes[i] == 'w' else dict(width=1, height=2)


def batches(shapes: str, **options) -> list:
    sampler = SequentialSampler(Shapes(shapes))
    sampler.dataset = Shapes(shapes)
    batched = AspectRatioBatchSampler(sampler, **options)
    out = list(batched)
    return out


def test_batches_hold_images_of_one_shape():
    assert batches('wtwtw', batch_size=2) == [[0, 2], [1, 3], [4]]


def test_what_is_left_is_put_together_or_dropped():
    assert batches('wtw', batch_size=2) == [[0, 2], [1]]
    assert batches('wt', batch_size=2) == [[0, 1]]
    assert batches('wtt', batch_size=2, drop_last=True) == [[1, 2]]


def test_passes_follow_each_other_without_end_and_each_is_shuffled_anew():
    sampler = InfiniteSampler(Shapes('w' * 5), seed=3)
    drawn = list(islice(sampler, 12))
    assert [e for e, _ in drawn] == [0] * 5 + [1] * 5 + [2] * 2
    passes = [[i for e, i in drawn if e == k] for k in (0, 1)]
    assert sorted(passes[0]) == sorted(passes[1]) == [0, 1, 2, 3, 4] and passes[0] != passes[1]
    assert list(islice(InfiniteSampler(Shapes('w' * 5), seed=3), 12)) == drawn
    assert [i for _, i in islice(InfiniteSampler(Shapes('w' * 3), shuffle=False, seed=0), 5)] == [0, 1, 2, 0, 1]


def test_processes_share_a_pass(monkeypatch):
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr('detkit.data.samplers.get_dist_info', lambda rank=rank: (rank, 2))
        parts.append(list(islice(InfiniteSampler(Shapes('w' * 5), seed=1), 5)))
    together = [x for pair in zip(*parts) for x in pair]
    monkeypatch.setattr('detkit.data.samplers.get_dist_info', lambda: (0, 1))
    assert together == list(islice(InfiniteSampler(Shapes('w' * 5), seed=1), 10))


class Labels(Shapes):
    """A data set of which the labels are known, one image each."""

    def __init__(self, labels: list[list[int]]) -> None:
        super().__init__('w' * len(labels))
        self.labels = labels

    def get_cat_ids(self, i: int) -> list[int]:
        return self.labels[i]


class Parts(Shapes):
    """Two data sets, one after the other."""

    def __init__(self, *shapes: str) -> None:
        super().__init__(''.join(shapes))
        self.datasets = [Shapes(s) for s in shapes]


def test_classes_take_turns():
    data = Labels([[0]] * 9 + [[1, 1]] + [[]] * 2)
    sampler = ClassAwareSampler(data, seed=1)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 12
    assert sum(i == 9 for _, i in drawn) == 6 and all(i < 10 for _, i in drawn)
    assert len(set(drawn)) == 12 and {e for e, i in drawn if i == 9} == {PASSES * k for k in range(6)}   # each time another sample
    assert list(ClassAwareSampler(data, seed=1)) == drawn
    sampler.set_epoch(1)
    assert [i for _, i in sampler] != [i for _, i in drawn]
    assert [i == 9 for _, i in ClassAwareSampler(data, seed=1, num_sample_class=3)].count(True) == 6
    with pytest.raises(ConfigError, match='no image'):
        ClassAwareSampler(Labels([[]]), seed=0)


def test_processes_share_the_turns_of_the_classes(monkeypatch):
    data, parts = Labels([[0], [1], [2]] * 5), []
    whole = list(ClassAwareSampler(data, seed=2))
    for rank in (0, 1):
        monkeypatch.setattr('detkit.data.samplers.get_dist_info', lambda rank=rank: (rank, 2))
        parts.append(list(ClassAwareSampler(data, seed=2)))
    assert len(parts[0]) == len(parts[1]) == 8 and parts[0][:7] == whole[::2][:7] and parts[1][:7] == whole[1::2]


def test_batches_hold_fixed_shares_of_the_parts():
    drawn = list(islice(MultiSourceSampler(Parts('w' * 3, 'w' * 7), 5, [1, 4], seed=0), 35))
    for i in range(0, 35, 5):
        assert [index >= 3 for _, index in drawn[i:i + 5]] == [False] + [True] * 4
    assert [epoch for epoch, index in drawn if index < 3] == [0, 0, 0, 1, 1, 1, 2]
    assert sorted(index for epoch, index in drawn if index >= 3 and epoch == 1) == list(range(3, 10))
    with pytest.raises(ConfigError, match='as many parts'):
        MultiSourceSampler(Parts('w', 'w'), 5, [1, 4, 2])
    with pytest.raises(ConfigError, match='given Shapes'):
        MultiSourceSampler(Shapes('w'), 5, [1])


def test_grouped_batches_hold_one_shape_too():
    data = Parts('wwt', 'wtwttww')
    drawn = list(islice(GroupMultiSourceSampler(data, 4, [1, 1], seed=0), 400))
    kinds = []
    for i in range(0, 400, 4):
        batch = [index for _, index in drawn[i:i + 4]]
        assert [index >= 3 for index in batch] == [False, False, True, True]
        assert len({data.shapes[index] for index in batch}) == 1
        kinds.append(data.shapes[batch[0]])
    assert 0.4 < kinds.count('w') / 100 < 0.8                # six of ten images are wide
    with pytest.raises(ConfigError, match='part 0'):
        GroupMultiSourceSampler(Parts('ww', 'wt'), 2, [1, 1], seed=0)
