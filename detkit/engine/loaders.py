"""Build a DataLoader from a config: dataset, sampler, batches, workers."""
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

PREFETCH = 2       # batches that a worker loads in advance; torch's default


def build_loader(cfg: dict, seed: int | None = None, diff_rank_seed: bool = False, dataset: Any = None) -> DataLoader:
    """Build the DataLoader that ``cfg`` describes in mmengine's format; ``seed`` is passed to its dataset and sampler.

    ``dataset``: the dataset of ``cfg`` if it is already built.

    mmengine's function copies the dict including the dataset, and ignores unknown arguments. Here workers ignore the signals that
    stop a run, because the last iteration before the stop needs their batches.

    ``shared_batches=False`` in ``cfg``: workers send batches as torch's DataLoader does, without shared buffers (detkit.engine.ring).

    Raises:
        ConfigError: a part is missing or cannot be built, or the loader has no batch.
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
        for key in ('persistent_workers', 'prefetch_factor'):   # they need workers
            args.pop(key, None)
    if not torch.cuda.is_available():
        args.pop('pin_memory', None)                            # torch would warn without CUDA
    args.pop('disable_subprocess_warning', None)
    try:
        loader = loader_of(dataset, args, args.pop('shared_batches', True))
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error), cfg) from error
    if not len(loader):
        raise ConfigError(no_batch(len(dataset), cfg.get('batch_size', 1), bool(cfg.get('drop_last')), get_world_size()), cfg)
    return loader


def loader_of(dataset: Any, args: dict, shared_batches: bool) -> DataLoader:
    """Return a loader with shared image buffers if there are workers, the default collate function is used and the images allow it."""
    workers, batch_size = args.get('num_workers') or 0, args.get('batch_size') or getattr(args.get('batch_sampler'), 'batch_size', None)
    if shared_batches and workers and batch_size and getattr(args['collate_fn'], 'func', args['collate_fn']) is pseudo_collate \
            and isinstance(dataset, Sized) and len(dataset):
        buffers = make_buffers(dataset, batch_size, workers, args.get('prefetch_factor') or PREFETCH)
        if buffers:
            return RingLoader(dataset, buffers, **{k: v for k, v in args.items() if k != 'pin_memory'})   # the buffers are not pinned
    return Loader(dataset, **args)


def build_dataset(described: Any, seed: int | None) -> Any:
    """Return the dataset ``described`` (a dataset or its config), ready for use: annotations are read, caches are open, and ``seed`` is
    set in it and in the datasets that it wraps."""
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
    """The first samples of a dataset, with its ``metainfo``."""

    @property
    def metainfo(self) -> dict | None:
        return getattr(self.dataset, 'metainfo', None)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index]

    def __getitems__(self, indices: list) -> list:
        return [self[i] for i in indices]

    def get_data_info(self, idx: int) -> dict:
        """Return the annotations of one image, for AspectRatioBatchSampler."""
        return self.dataset.get_data_info(idx)


def function(cfg: Any) -> Callable:
    """Return the function that a config names, with the config's other entries as its arguments."""
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
    cv2.setNumThreads(0)                                        # torch limits its own threads in workers; OpenCV does not
    if then is not None:
        then(worker_id)


def stop_workers(loader: DataLoader) -> None:
    """Stop persistent workers. The next pass over the loader starts new ones with the current dataset."""
    iterator = getattr(loader, '_iterator', None)
    if iterator is not None:
        iterator._shutdown_workers()
        loader._iterator = None
