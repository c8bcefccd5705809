"""Data sets made of other data sets: mmengine's, in which a repeated image is not the same sample again.

A sample of detkit depends on (seed, epoch, index) alone, so an image that comes twice in an epoch would come with the same flip, crop and
colours both times. Here each repetition counts as a pass of its own over the inner data set. All of them take the pairs (epoch, index)
that ``InfiniteSampler`` gives.
"""
from __future__ import annotations

from typing import Any

from mmengine import dataset as mmdataset

from detkit.registry import DATASETS, ConfigError


def epoch_and_index(index: int | tuple[int, int], dataset: Any) -> tuple[int, int]:
    """``index`` as a pair; a plain one is of the epoch that ``dataset`` is in."""
    return index if isinstance(index, tuple) else (getattr(dataset, 'epoch', 0), index)


def sample(dataset: Any, epoch: int, index: int) -> Any:
    """Sample ``index`` of pass ``epoch``; a data set that knows of no epochs is asked for the index alone."""
    return dataset[epoch, index] if hasattr(dataset, 'epoch') else dataset[index]


@DATASETS.register_module()
class ConcatDataset(mmdataset.ConcatDataset):
    """Several data sets, one after the other.

    Raises:
        ConfigError: they differ in their classes, or in other metainfo that ``ignore_keys`` does not name.
    """

    def __init__(self, datasets: list, lazy_init: bool = False, ignore_keys: str | list[str] | None = None) -> None:
        try:
            super().__init__(datasets, lazy_init, ignore_keys)
        except ConfigError:
            raise
        except (TypeError, ValueError) as error:
            raise ConfigError(f'ConcatDataset datasets: {error}. Give all of them the same metainfo, or name what may differ '
                              f'in ignore_keys.') from error

    @property
    def epoch(self) -> int:
        return getattr(self.datasets[0], 'epoch', 0)

    def __getitem__(self, index: int | tuple[int, int]) -> Any:
        epoch, index = epoch_and_index(index, self)
        part, inner = self._get_ori_dataset_idx(int(index))
        return sample(self.datasets[part], epoch, inner)

    def get_cat_ids(self, idx: int) -> list[int]:
        part, inner = self._get_ori_dataset_idx(idx)
        return self.datasets[part].get_cat_ids(inner)


@DATASETS.register_module()
class RepeatDataset(mmdataset.RepeatDataset):
    """``times`` passes over ``dataset`` in one epoch."""

    @property
    def epoch(self) -> int:
        return getattr(self.dataset, 'epoch', 0)

    def __getitem__(self, index: int | tuple[int, int]) -> Any:
        epoch, index = epoch_and_index(index, self)
        turn, inner = divmod(int(index) % len(self), self._ori_len)
        return sample(self.dataset, epoch * self.times + turn, inner)


@DATASETS.register_module()
class ClassBalancedDataset(mmdataset.ClassBalancedDataset):
    """Images of rare classes come several times in an epoch (https://arxiv.org/abs/1908.03195, Sec. 4.2: repeat factor sampling)."""

    @property
    def epoch(self) -> int:
        return getattr(self.dataset, 'epoch', 0)

    def full_init(self) -> None:
        super().full_init()
        self.turns = [0] * len(self.repeat_indices)      # how often the image has come before; its repetitions lie side by side
        for i in range(1, len(self.turns)):
            if self.repeat_indices[i] == self.repeat_indices[i - 1]:
                self.turns[i] = self.turns[i - 1] + 1
        self.most = max(self.turns, default=0) + 1

    def __getitem__(self, index: int | tuple[int, int]) -> Any:
        epoch, index = epoch_and_index(index, self)
        inner = self._get_ori_dataset_idx(int(index))
        return sample(self.dataset, epoch * self.most + self.turns[index], inner)
