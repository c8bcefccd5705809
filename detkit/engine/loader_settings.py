"""The settings of a data loader in a config, and the valid values of each."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from detkit.registry import ConfigError, did_you_mean


def is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_flag(value: Any) -> bool:
    return isinstance(value, bool) or value in (0, 1) and isinstance(value, int)


def is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def is_part(value: Any) -> bool:
    """Return whether ``value`` is a config dict or an object."""
    return not isinstance(value, (str, int, float, list, tuple, type(None)))


def is_function(value: Any) -> bool:
    return isinstance(value, dict) and 'type' in value or callable(value)


# Key -> (description of the valid values, test of a value); keys in OPTIONAL may also be None.
SETTINGS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    'dataset': ('a dict with a type', is_part),
    'sampler': ('a dict with a type', is_part),
    'batch_sampler': ('a dict with a type', is_part),
    'batch_size': ('a whole number, 1 or more', lambda v: is_whole(v, 1)),
    'num_workers': ('a whole number, 0 or more', lambda v: is_whole(v, 0)),
    'persistent_workers': ('True or False', is_flag),
    'pin_memory': ('True or False', is_flag),
    'drop_last': ('True or False', is_flag),
    'prefetch_factor': ('a whole number, 1 or more, or None', lambda v: is_whole(v, 1)),
    'timeout': ('a number of seconds, 0 or more', is_seconds),
    'collate_fn': ("a dict with a type, such as dict(type='pseudo_collate')", is_function),
    'worker_init_fn': ('a dict with a type', is_function),
    'num_batch_per_epoch': ('a whole number, 1 or more', lambda v: is_whole(v, 1)),
    'shared_batches': ('True or False', is_flag),
    'disable_subprocess_warning': ('True or False', is_flag),
    'multiprocessing_context': ("'fork', 'spawn' or 'forkserver'", lambda v: not isinstance(v, str) or v in START_METHODS),
    'generator': ('a torch.Generator', is_part),
    'pin_memory_device': ("a device, such as 'cuda'", lambda v: isinstance(v, str)),
    'in_order': ('True or False', is_flag)}
START_METHODS = ('fork', 'spawn', 'forkserver')
OPTIONAL = ('batch_sampler', 'batch_size', 'prefetch_factor', 'collate_fn', 'worker_init_fn', 'num_batch_per_epoch', 'num_workers',
            'multiprocessing_context', 'generator', 'pin_memory')
ELSEWHERE = {'shuffle': "It belongs to the sampler: sampler=dict(type='DefaultSampler', shuffle=...).",
             'samples_per_gpu': 'It is written batch_size now.', 'imgs_per_gpu': 'It is written batch_size now.',
             'workers_per_gpu': 'It is written num_workers now.'}


def loader_problems(cfg: dict) -> Iterator[ConfigError]:
    """Yield an error for each unknown key and each invalid value in a data loader's config; the error's ``path`` is the key."""
    for key, value in cfg.items():
        if key not in SETTINGS:
            remedy = f' {ELSEWHERE[key]}' if key in ELSEWHERE else did_you_mean(key, SETTINGS)
            yield ConfigError(f"a data loader has no '{key}'.{remedy} It has: {', '.join(SETTINGS)}.", cfg)
            continue
        kind, is_possible = SETTINGS[key]
        if not (value is None and key in OPTIONAL) and not is_possible(value):
            yield ConfigError(f'is {value!r}; it should be {kind}.', cfg, (key,))
    for part in ('dataset', 'sampler'):
        if part not in cfg:
            yield ConfigError(f"has no '{part}'.", cfg)
    if cfg.get('batch_sampler') is None and cfg.get('batch_size') is None and 'batch_size' in cfg:
        yield ConfigError('is None; it should be a whole number, 1 or more.', cfg, ('batch_size',))


def no_batch(num_images: int, batch_size: int, drop_last: bool, num_processes: int = 1) -> str:
    """Return the error message for a loader without batches."""
    if not num_images:
        return 'yields no batch: there are no images. Look at ann_file, metainfo.classes and filter_cfg of its data set.'
    share = '' if num_processes == 1 else f' for {num_processes} processes'
    most = max(num_images // num_processes, 1)
    return (f'yields no batch: {num_images} images{share}, batch_size={batch_size}, drop_last={drop_last}: the only batch is not full and '
            f'is dropped. Set its batch_size to {most} or less, or drop_last=False.')


def check_loader(cfg: dict) -> None:
    """Raise the first error of ``loader_problems``."""
    if not isinstance(cfg, dict):
        raise ConfigError(f'a data loader is built from a dict such as cfg.train_dataloader, and not from a {type(cfg).__name__}.')
    for problem in loader_problems(cfg):
        raise problem
