"""Use a cache in front of a dataset's pipeline."""
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
    """Datasets loaded in this context read their annotations but do not open their caches; call ``open_cache`` for each later."""
    token = _deferred.set(True)
    try:
        yield
    finally:
        _deferred.reset(token)


def open_cache(dataset: Any) -> None:
    """Call ``use_cache`` once, if the config of ``dataset`` sets a cache."""
    if getattr(dataset, 'cache_settings', None) and not dataset.is_cache_open and not _deferred.get():
        dataset.is_cache_open = True
        use_cache(dataset, dataset.cache_settings)


def cache_of(dataset: Any, settings: CacheSettings) -> SampleCache:
    """Return the cache of a dataset whose annotations are loaded.

    Raises:
        ConfigError: its pipeline starts with a random transform, so there is nothing to cache.
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
    """Return a transform with its settings, equal in every process (the default ``__repr__`` contains an address)."""
    if type(transform).__repr__ is not object.__repr__:
        return repr(transform)
    return f'{type(transform).__qualname__}({", ".join(f"{k}={v!r}" for k, v in sorted(vars(transform).items()))})'


def use_cache(dataset: Any, settings: CacheSettings) -> None:
    """Read the samples of ``dataset`` from its cache from now on; build missing samples if the settings say so.

    Raises:
        CacheError: it cannot be used, and ``on_error`` is ``fail``.
    """
    def warn(error: Exception) -> None:
        print_log(f'{error} Going on without the cache (on_error=uncached).', 'current', logging.WARNING)
    try:
        cache = cache_of(dataset, settings)
        if settings.build == 'auto':
            fill(cache, settings.workers, lambda line: print_log(line, 'current'))
        cache.store.held([])                # report a file that cannot be read now
    except CacheError as error:
        if settings.on_error == 'fail':
            raise
        warn(error)
        return
    dataset.pipeline.stored = cache.read if settings.on_error == 'fail' else tolerant(cache.read, warn)


class tolerant:
    """Call ``read`` until it fails once; warn at the first failure and return None from then on."""

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
