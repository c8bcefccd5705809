"""A data loader from a config: data set, sampler, batches, workers."""
from __future__ import annotations

import copy
from collections.abc import Callable, Sized
from functools import partial
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.dataset import worker_init_fn as default_worker_init_fn
from mmengine.dist import get_rank, get_world_size
from torch.utils.data import DataLoader, Subset

from detkit.data.cache.use import open_cache
from detkit.data.datasets.wrappers import nested_datasets
from detkit.engine.loader_settings import check_loader, no_batch
from detkit.engine.ring import Loader, RingLoader, make_buffers
from detkit.opencv import cv2
from detkit.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS, ConfigError
from detkit.signals import end_with_parent, ignore_stop_signals, kill_workers_at_exit

PREFETCH = 2       # batches a worker makes ahead; torch's default


def build_loader(cfg: dict, seed: int | None = None, diff_rank_seed: bool = False, dataset: Any = None) -> DataLoader:
    """The DataLoader that ``cfg`` describes, in mmengine's terms; its data set and sampler draw from ``seed``.

    ``dataset``: that of ``cfg`` where its annotations have been read already.

    mmengine's loader copies the dict with the data set in it and ignores unknown arguments silently. Workers ignore
    the signals that stop a run: the iteration that is finished before it stops needs their batches.

    ``shared_batches=False`` in ``cfg``: workers hand batches over as torch's DataLoader does, not in shared buffers (detkit.engine.ring).

    Raises:
        ConfigError: a part that is missing or cannot be built, or a loader without a batch.
    """
    check_loader(cfg)
    args = copy.deepcopy(cfg)
    dataset = build_dataset(args.pop('dataset') if dataset is None else dataset, seed)
    args.pop('dataset', None)
    if args.get('num_batch_per_epoch') is not None:
        count = args.pop('num_batch_per_epoch') * args['batch_size'] * get_world_size()
        dataset = Part(dataset, range(min(count, len(dataset))))
    args.pop('num_batch_per_epoch', None)
    sampler = DATA_SAMPLERS.build(args.pop('sampler'), default_args=dict(seed=None if diff_rank_seed else seed), dataset=dataset)
    grouping = args.pop('batch_sampler', None)
    if grouping is not None:
        args['batch_sampler'] = DATA_SAMPLERS.build(grouping, default_args=dict(batch_size=args.pop('batch_size', None)), sampler=sampler)
    else:
        args['sampler'] = sampler
    args['collate_fn'] = function(args.get('collate_fn', dict(type='pseudo_collate')))
    args['worker_init_fn'] = worker_start(args, seed)
    if not args.get('num_workers'):
        for key in ('persistent_workers', 'prefetch_factor'):   # there are no workers that could persist or fetch ahead
            args.pop(key, None)
    if not torch.cuda.is_available():
        args.pop('pin_memory', None)                            # nothing to pin it for; torch would warn
    args.pop('disable_subprocess_warning', None)
    try:
        loader = loader_of(dataset, args, args.pop('shared_batches', True))
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error), cfg) from error
    if not len(loader):
        raise ConfigError(no_batch(len(dataset), cfg.get('batch_size', 1), bool(cfg.get('drop_last')), get_world_size()), cfg)
    return loader


def loader_of(dataset: Any, args: dict, shared_batches: bool) -> DataLoader:
    """One whose workers hand images over in shared buffers, where it has workers, collates as MMDetection and the images allow it."""
    workers, batch_size = args.get('num_workers') or 0, args.get('batch_size') or getattr(args.get('batch_sampler'), 'batch_size', None)
    if shared_batches and workers and batch_size and getattr(args['collate_fn'], 'func', args['collate_fn']) is pseudo_collate \
            and isinstance(dataset, Sized) and len(dataset):
        buffers = make_buffers(dataset, batch_size, workers, args.get('prefetch_factor') or PREFETCH)
        if buffers:
            return RingLoader(dataset, buffers, **{k: v for k, v in args.items() if k != 'pin_memory'})   # the buffers are not pinned
    return Loader(dataset, **args)


def build_dataset(described: Any, seed: int | None) -> Any:
    """Return the data set that ``described`` is, or is the config of, ready for use: annotations read, caches opened, and ``seed``
    handed to it and to those that it wraps."""
    dataset = DATASETS.build(described)
    for part in nested_datasets(dataset):
        if hasattr(part, 'seed') and seed is not None:
            part.seed = seed
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    for part in nested_datasets(dataset):
        open_cache(part)
    return dataset


class Part(Subset):
    """The first samples of a data set, known by its ``metainfo``."""

    @property
    def metainfo(self) -> dict | None:
        return getattr(self.dataset, 'metainfo', None)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index]

    def __getitems__(self, indices: list) -> list:
        return [self[i] for i in indices]

    def get_data_info(self, idx: int) -> dict:
        """What AspectRatioBatchSampler asks for."""
        return self.dataset.get_data_info(idx)


def function(cfg: Any) -> Callable:
    """A function named in a config, with its other entries as arguments."""
    if not isinstance(cfg, dict):
        return cfg
    args = dict(cfg)
    kind = args.pop('type')
    return partial(FUNCTIONS.get(kind) if isinstance(kind, str) else kind, **args)


def worker_start(args: dict, seed: int | None) -> Callable | None:
    if not args.get('num_workers'):
        return None
    kill_workers_at_exit()
    chosen = args.get('worker_init_fn')
    if chosen is None and seed is not None:
        chosen = partial(default_worker_init_fn, num_workers=args['num_workers'], rank=get_rank(), seed=seed,
                         disable_subprocess_warning=args.get('disable_subprocess_warning', False))
    return partial(start_worker, function(chosen) if chosen is not None else None)


def start_worker(then: Callable | None, worker_id: int) -> None:
    ignore_stop_signals()
    end_with_parent()
    cv2.setNumThreads(0)                                        # torch limits its own threads; a worker is one of several
    if then is not None:
        then(worker_id)


def stop_workers(loader: DataLoader) -> None:
    """End persistent workers; if the loader is used again, it starts new ones, with the data set as it is then."""
    iterator = getattr(loader, '_iterator', None)
    if iterator is not None:
        iterator._shutdown_workers()
        loader._iterator = None
