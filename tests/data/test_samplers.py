from __future__ import annotations

from itertools import islice

from torch.utils.data import SequentialSampler

from detkit.data.samplers import AspectRatioBatchSampler, InfiniteSampler


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
