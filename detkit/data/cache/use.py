"""A cache put before the pipeline of a data set."""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mmengine.logging import print_log

from detkit.data.cache.build import fill
from detkit.data.cache.samples import CacheSettings, SampleCache
from detkit.data.cache.store import CacheError
from detkit.registry import ConfigError

_deferred: ContextVar[bool] = ContextVar('_deferred', default=False)


@contextmanager
def deferred_caches() -> Iterator[None]:
    """Data sets that are loaded inside read their annotations and leave their caches alone; ``open_cache`` is called for each later."""
    token = _deferred.set(True)
    try:
        yield
    finally:
        _deferred.reset(token)


def open_cache(dataset: Any) -> None:
    """Call ``use_cache`` once, where the config of ``dataset`` asks for a cache."""
    if getattr(dataset, 'cache_settings', None) and not dataset.is_cache_open and not _deferred.get():
        dataset.is_cache_open = True
        use_cache(dataset, dataset.cache_settings)


def cache_of(dataset: Any, settings: CacheSettings) -> SampleCache:
    """The cache of a data set whose annotations are read.

    Raises:
        ConfigError: its pipeline has nothing before the first random transform.
    """
    pipeline = dataset.pipeline
    if not pipeline.fixed:
        raise ConfigError('cache: the first transform of the pipeline is random, there is nothing that could be kept. Remove the cache, or '
                          'put the loading first.')
    cache = SampleCache(settings, dataset.data_root, dataset.ann_file, dataset.get_data_info, pipeline.prepared,
                        [settings_text(t) for t in pipeline.transforms[:pipeline.fixed]],
                        skip_unreadable=dataset.on_error == 'skip' and not dataset.test_mode)
    cache.load_keys(len(dataset))
    return cache


def settings_text(transform: Any) -> str:
    """A transform with its settings, the same in every process; one without a ``__repr__`` of its own would give its address."""
    if type(transform).__repr__ is not object.__repr__:
        return repr(transform)
    return f'{type(transform).__qualname__}({", ".join(f"{k}={v!r}" for k, v in sorted(vars(transform).items()))})'


def use_cache(dataset: Any, settings: CacheSettings) -> None:
    """Read the samples of ``dataset`` from its cache from now on; build what is missing, where the settings say so.

    Raises:
        CacheError: it cannot be used, and ``on_error`` is ``fail``.
    """
    def warn(error: Exception) -> None:
        print_log(f'{error} Going on without the cache (on_error=uncached).', 'current', logging.WARNING)
    try:
        cache = cache_of(dataset, settings)
        if settings.build == 'auto':
            fill(cache, settings.workers, lambda line: print_log(line, 'current'))
        cache.store.held([])                # a file that cannot be read is told now
    except CacheError as error:
        if settings.on_error == 'fail':
            raise
        warn(error)
        return
    dataset.pipeline.stored = cache.read if settings.on_error == 'fail' else tolerant(cache.read, warn)


class tolerant:
    """``read``, whose first failure is told and the last attempt."""

    def __init__(self, read: Callable[[int], dict | None], warn: Callable[[Exception], None]) -> None:
        self.read, self.warn, self.failed = read, warn, False

    def __call__(self, index: int) -> dict | None:
        if self.failed:
            return None
        try:
            return self.read(index)
        except CacheError as error:
            self.failed = True
            self.warn(error)
            return None
