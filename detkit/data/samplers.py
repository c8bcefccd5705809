"""Which samples come when, and which of them share a batch."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import BatchSampler, Sampler

from detkit.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class AspectRatioBatchSampler(BatchSampler):
    """Batches of images that are all wider than high, or all not: less of a batch is padding.

    An image waits until ``batch_size`` of its kind have come; what is left at the end is put together, unless ``drop_last``.
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
        """As many as full batches fit, however the shapes are spread."""
        count = len(self.sampler)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)


@DATA_SAMPLERS.register_module()
class InfiniteSampler(Sampler):
    """Passes over the data set without end, for loops that count iterations. Gives pairs (epoch, index).

    So that each pass draws augmentations of its own, and so that a run that is resumed can go on at any place: pass ``n`` depends on
    ``seed`` and ``n`` alone. Every process takes each ``world_size``-th sample.
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
        """A loop that counts epochs may call this; passes are counted here."""
