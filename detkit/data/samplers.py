"""Samplers and batch samplers: the order of samples, and which samples form a batch."""
from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import BatchSampler, Sampler

from detkit.registry import DATA_SAMPLERS, ConfigError

PASSES = 1 << 32       # added to the epoch for each further occurrence of an image in it, which is a different sample


@DATA_SAMPLERS.register_module()
class AspectRatioBatchSampler(BatchSampler):
    """Yield batches of images that are all wider than high, or all not, to reduce padding.

    An image waits until ``batch_size`` images of its group are collected; the remaining images form mixed batches at the end, unless
    ``drop_last``.
    """

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool = False) -> None:
        super().__init__(sampler, batch_size, drop_last)

    def __iter__(self) -> Iterator[list[Any]]:
        waiting: tuple[list, list] = ([], [])
        for index in self.sampler:
            info = self.sampler.dataset.get_data_info(index[1] if isinstance(index, tuple) else index)
            group = waiting[int(info['width'] < info['height'])]
            group.append(index)
            if len(group) == self.batch_size:
                yield group.copy()
                group.clear()
        left = waiting[0] + waiting[1]
        for i in range(0, len(left), self.batch_size):
            batch = left[i:i + self.batch_size]
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        """Return the number of batches, which does not depend on the image shapes."""
        count = len(self.sampler)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)


@DATA_SAMPLERS.register_module()
class InfiniteSampler(Sampler):
    """Yield pairs (epoch, index) for endless passes over the dataset, for loops that count iterations.

    Pass ``n`` depends only on ``seed`` and ``n``, so each pass has its own augmentations and a run can resume at any point. Each process
    takes every ``world_size``-th sample.
    """

    def __init__(self, dataset: Any, shuffle: bool = True, seed: int | None = None) -> None:
        self.dataset, self.shuffle = dataset, shuffle
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed

    def __iter__(self) -> Iterator[tuple[int, int]]:
        position, count, epoch = self.rank, len(self.dataset), 0
        order = self.order(0)
        while True:
            while position >= count:
                position -= count
                epoch += 1
                order = self.order(epoch)
            yield epoch, int(order[position])
            position += self.world_size

    def order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.dataset)) if self.shuffle else np.arange(len(self.dataset))

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: epoch-based loops may call this, but the sampler counts its own passes."""


@DATA_SAMPLERS.register_module()
class ClassAwareSampler(Sampler):
    """Cycle through the classes; each gives ``num_sample_class`` of its images (https://arxiv.org/abs/1512.05830, Sec. 3.3).

    An epoch has as many samples as the dataset. Yields pairs (epoch, index), as images of rare classes occur several times.
    """

    def __init__(self, dataset: Any, seed: int | None = None, num_sample_class: int = 1) -> None:
        if num_sample_class < 1:
            raise ConfigError(f'ClassAwareSampler num_sample_class={num_sample_class} must be at least 1.')
        self.dataset, self.num_sample_class, self.epoch = dataset, num_sample_class, 0
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        by_class: dict[int, list[int]] = {}
        for index in range(len(dataset)):
            for label in sorted(set(dataset.get_cat_ids(index))):
                by_class.setdefault(label, []).append(index)
        self.images = [by_class[label] for label in sorted(by_class)]
        if not self.images:
            raise ConfigError('ClassAwareSampler: no image of the data set has an object.')

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        classes, images = endless(rng, range(len(self.images))), [endless(rng, found) for found in self.images]
        order = (next(images[c])[1] for _, c in classes for _ in range(self.num_sample_class))
        seen: dict[int, int] = {}
        for position, index in enumerate(itertools.islice(order, len(self) * self.world_size)):
            seen[index] = seen.get(index, -1) + 1
            if position % self.world_size == self.rank:
                yield self.epoch + PASSES * seen[index], index

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.world_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def endless(rng: np.random.Generator, values: Sequence[int], shuffle: bool = True) -> Iterator[tuple[int, int]]:
    """Yield (pass, value) for endless passes over ``values``, each pass in its own order."""
    for turn in itertools.count():
        order = rng.permutation(len(values)) if shuffle else range(len(values))
        yield from ((turn, values[int(i)]) for i in order)


@DATA_SAMPLERS.register_module()
class MultiSourceSampler(Sampler):
    """Yield endless batches with fixed fractions from each part of a ConcatDataset, for loops that count iterations.

    Yields pairs (epoch, index); an epoch is a pass over one part. ``source_ratio``: fraction of each part in a batch of ``batch_size``, in
    the order of the parts; samples left by rounding come from the first part.
    """

    def __init__(self, dataset: Any, batch_size: int, source_ratio: Sequence[float], shuffle: bool = True, seed: int | None = None) -> None:
        parts = getattr(dataset, 'datasets', None)
        if parts is None or len(parts) != len(source_ratio):
            raise ConfigError(f'{type(self).__name__} source_ratio={list(source_ratio)} needs a ConcatDataset of as many parts, given '
                              f'{type(dataset).__name__}{f" of {len(parts)}" if parts is not None else ""}.')
        self.counts = [int(batch_size * share / sum(source_ratio)) for share in source_ratio]
        self.counts[0] = batch_size - sum(self.counts[1:])
        self.dataset, self.shuffle = dataset, shuffle
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        starts = [0, *itertools.accumulate(map(len, parts))]
        self.parts = [range(a, b) for a, b in zip(starts, starts[1:])]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        sources = [self.stream(part, n) for n, part in enumerate(self.parts)]
        while True:
            for source, count in zip(sources, self.counts):
                yield from itertools.islice(source, count)

    def stream(self, values: Sequence[int], *key: int) -> Iterator[tuple[int, int]]:
        """Yield this process's samples of endless passes over ``values``."""
        rng = np.random.default_rng([self.seed, *key])
        return itertools.islice(endless(rng, values, self.shuffle), self.rank, None, self.world_size)

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: epoch-based loops may call this, but the sampler counts its own passes."""


@DATA_SAMPLERS.register_module()
class GroupMultiSourceSampler(MultiSourceSampler):
    """A MultiSourceSampler whose batches have images that are all wider than high, or all not, in proportion to the data.

    Raises:
        ConfigError: a part has no wide (or no upright) images although another part has them: such batches could not be filled.
    """

    def __init__(self, dataset: Any, batch_size: int, source_ratio: Sequence[float], shuffle: bool = True, seed: int | None = None) -> None:
        super().__init__(dataset, batch_size, source_ratio, shuffle, seed)
        upright = np.array([info['width'] < info['height'] for info in map(dataset.get_data_info, range(len(dataset)))])
        kinds = [kind for kind in (True, False) if (upright == kind).any()]
        self.groups = [[[i for i in part if upright[i] == kind] for part in self.parts] for kind in kinds]
        empty = [n for n, count in enumerate(self.counts) if count and not all(group[n] for group in self.groups)]
        if empty:
            raise ConfigError(f'GroupMultiSourceSampler: part {empty[0]} of the ConcatDataset has only upright or only wide images, and '
                              f'others have both. Use MultiSourceSampler.')
        self.shares = [sum(map(len, group)) / len(dataset) for group in self.groups]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        sources = [[self.stream(part, g, n) for n, part in enumerate(group)] for g, group in enumerate(self.groups)]
        draws = np.random.default_rng([self.seed, len(self.groups)])     # identical in all processes: their batches have one shape
        while True:
            for source, count in zip(sources[int(draws.choice(len(sources), p=self.shares))], self.counts):
                yield from itertools.islice(source, count)
