"""Datasets made of other datasets, based on mmengine's; a repeated image gives a different sample each time.

A sample depends only on (seed, epoch, index), so an image that occurs twice in an epoch would get the same flip, crop and colours both
times. Here each repetition counts as a separate pass over the inner dataset. All wrappers accept the pairs (epoch, index) that
``InfiniteSampler`` yields.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine import dataset as mmdataset

from detkit.data.classes import class_difference, class_names
from detkit.data.formats.faults import BrokenAnnotations
from detkit.registry import DATASETS, TRANSFORMS, ConfigError
from detkit.structures.random_streams import RandomStream


def epoch_and_index(index: int | tuple[int, int], dataset: Any) -> tuple[int, int]:
    """Return ``index`` as a pair (epoch, index); a plain index uses the current epoch of ``dataset``."""
    return index if isinstance(index, tuple) else (getattr(dataset, 'epoch', 0), index)


def sample(dataset: Any, epoch: int, index: int) -> Any:
    """Return sample ``index`` of pass ``epoch``; datasets without epochs are indexed by ``index`` alone."""
    return dataset[epoch, index] if hasattr(dataset, 'epoch') else dataset[index]


def nested_datasets(dataset: Any) -> Iterator[Any]:
    """Yield ``dataset`` and the datasets that it wraps, at any depth."""
    yield dataset
    for name in ('dataset', '_dataset', 'datasets'):
        inner = vars(dataset).get(name) if hasattr(dataset, '__dict__') else None
        for part in inner if isinstance(inner, (list, tuple)) else [] if inner is None else [inner]:
            yield from nested_datasets(part)


def set_dataset_epoch(dataset: Any, epoch: int) -> None:
    """Set the epoch of ``dataset`` and of all datasets that it wraps."""
    for part in nested_datasets(dataset):
        if hasattr(part, 'set_epoch'):
            part.set_epoch(epoch)


def built(described: Any) -> Any:
    """Return the dataset that ``described`` is or describes, for an mmengine wrapper: if mmengine built it, errors would lose their keys.

    mmengine accepts only BaseDataset objects directly; objects of other classes must come from a function.
    """
    dataset = DATASETS.build(described)
    return dataset if isinstance(dataset, mmdataset.BaseDataset) else dict(type=lambda: dataset)


@DATASETS.register_module()
class ConcatDataset(mmdataset.ConcatDataset):
    """Several datasets, one after the other.

    Raises:
        ConfigError: their classes differ (even if ``ignore_keys`` names them), or other metainfo not in ``ignore_keys`` differs.
    """

    def __init__(self, datasets: list, lazy_init: bool = False, ignore_keys: str | list[str] | None = None) -> None:
        try:
            super().__init__([built(one) for one in datasets], lazy_init, ignore_keys)
        except (ConfigError, BrokenAnnotations):
            raise
        except (TypeError, ValueError) as error:
            self.check_classes()
            raise ConfigError(f'ConcatDataset datasets: {error}. Give all of them the same metainfo, or name what may differ '
                              f'in ignore_keys.') from error
        self.check_classes()

    def check_classes(self) -> None:
        """Raise ConfigError if the labels of the datasets mean different classes."""
        lists = [class_names(getattr(part, 'metainfo', None)) for part in self.datasets]
        for i, names in enumerate(lists):
            if names is not None and lists[0] is not None and names != lists[0]:
                difference = class_difference(lists[0], names, 'datasets[0]', f'datasets[{i}]')
                raise ConfigError(f'ConcatDataset datasets: {difference}. Give all of them the same metainfo=dict(classes=(...)).')

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

    def __init__(self, dataset: Any, times: int, lazy_init: bool = False) -> None:
        super().__init__(built(dataset), times, lazy_init)

    @property
    def epoch(self) -> int:
        return getattr(self.dataset, 'epoch', 0)

    def __getitem__(self, index: int | tuple[int, int]) -> Any:
        epoch, index = epoch_and_index(index, self)
        turn, inner = divmod(int(index) % len(self), self._ori_len)
        return sample(self.dataset, epoch * self.times + turn, inner)


@DATASETS.register_module()
class ClassBalancedDataset(mmdataset.ClassBalancedDataset):
    """Repeat images of rare classes within an epoch (repeat factor sampling, https://arxiv.org/abs/1908.03195, Sec. 4.2)."""

    def __init__(self, dataset: Any, oversample_thr: float, lazy_init: bool = False) -> None:
        super().__init__(built(dataset), oversample_thr, lazy_init)

    @property
    def epoch(self) -> int:
        return getattr(self.dataset, 'epoch', 0)

    def full_init(self) -> None:
        super().full_init()
        self.turns = [0] * len(self.repeat_indices)      # how many times the image came before; repetitions are adjacent
        for i in range(1, len(self.turns)):
            if self.repeat_indices[i] == self.repeat_indices[i - 1]:
                self.turns[i] = self.turns[i - 1] + 1
        self.most = max(self.turns, default=0) + 1

    def __getitem__(self, index: int | tuple[int, int]) -> Any:
        epoch, index = epoch_and_index(index, self)
        inner = self._get_ori_dataset_idx(int(index))
        return sample(self.dataset, epoch * self.most + self.turns[index], inner)


@DATASETS.register_module()
class MultiImageMixDataset:
    """Apply a pipeline whose transforms mix samples (Mosaic, MixUp, CopyPaste) after the pipeline of another dataset.

    Mixed-in samples come from ``dataset``, each time with new random numbers, and do not pass through the transforms of ``pipeline``:
    a MixUp after a Mosaic adds a single image.

    Args:
        dataset: returns result dicts; its pipeline loads images and does not pack them.
        pipeline: configs of transforms. skip_type_keys: names of transforms to skip; see ``update_skip_type_keys``.
        max_refetch: maximum number of new samples drawn when the pipeline returns None.
    """

    def __init__(self, dataset: Any, pipeline: Sequence[dict], skip_type_keys: Sequence[str] | None = None, max_refetch: int = 15,
                 lazy_init: bool = False) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.names = [str(t['type']).rpartition('.')[2] for t in pipeline]
        self.transforms = [TRANSFORMS.build(t) for t in pipeline]
        self.max_refetch, self.seed = max_refetch, 0
        self._skipped = torch.zeros(len(pipeline), dtype=torch.uint8).share_memory_()     # shared memory: persistent workers see the change
        self.update_skip_type_keys(skip_type_keys)
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        self.dataset.full_init()

    def update_skip_type_keys(self, skip_type_keys: Sequence[str] | None) -> None:
        """Skip the transforms with these names from now on.

        Raises:
            ConfigError: there is no transform with that name.
        """
        unknown = [k for k in skip_type_keys or () if k not in self.names]
        if unknown:
            raise ConfigError(f"skip_type_keys names '{unknown[0]}', which is not in the pipeline: {', '.join(self.names)}.")
        self._skipped.copy_(torch.tensor([n in (skip_type_keys or ()) for n in self.names]))

    @property
    def metainfo(self) -> dict:
        return self.dataset.metainfo

    @property
    def epoch(self) -> int:
        return getattr(self.dataset, 'epoch', 0)

    def __len__(self) -> int:
        return len(self.dataset)

    def get_data_info(self, idx: int) -> dict:
        return self.dataset.get_data_info(idx)

    def get_cat_ids(self, idx: int) -> list[int]:
        return self.dataset.get_cat_ids(idx)

    def __getitem__(self, index: int | tuple[int, int]) -> Any:
        epoch, index = epoch_and_index(index, self)
        index = int(index) % len(self)
        for attempt in range(self.max_refetch + 1):
            data = self.mixed(epoch, index, attempt)
            if data is not None:
                return data
            index = int(np.random.default_rng([self.seed, epoch, index, attempt, RandomStream.MIXING]).integers(len(self)))
        raise ValueError(f'MultiImageMixDataset: its pipeline ({", ".join(self.names)}) gave None for {self.max_refetch + 1} samples.')

    def mixed(self, epoch: int, index: int, attempt: int, steps: int | None = None) -> Any:
        """Return sample ``index`` after the first ``steps`` transforms (default: all); None if a transform returns None."""
        results = sample(self.dataset, epoch, index)
        for position, transform in enumerate(self.transforms[:steps]):
            if results is None or self._skipped[position]:
                continue
            rng = np.random.default_rng([self.seed, epoch, index, attempt, RandomStream.MIXING + position])
            results = transform({**results, 'rng': rng, 'num_samples': len(self), 'partner': self.partner(rng)})
        return results

    def partner(self, rng: np.random.Generator) -> Callable[[int], Any]:
        """Return a function that gives sample ``i`` of the inner dataset from an unused pass: its augmentation differs each time."""
        return lambda i: sample(self.dataset, int(rng.integers(1 << 32, 1 << 62)), int(i))
