"""Caches of a config's datasets: build, verify, clean and benchmark them."""
from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from detkit.config import load_config
from detkit.data.cache.build import fill
from detkit.data.cache.samples import CacheSettings, SampleCache, size_text
from detkit.data.cache.use import cache_of
from detkit.data.datasets.wrappers import nested_datasets
from detkit.registry import DATASETS, ConfigError, register_all_modules

SPLITS = ('train', 'val', 'test')
ADVISE_SAMPLES = 200


def cache_datasets(cfg: Config | str | Path, splits: Sequence[str] = SPLITS[:2], settings: dict | None = None, verify: bool = False,
                   clean: bool = False, say: Callable[[str], None] = print) -> list[SampleCache]:
    """Build the cache of each dataset of ``splits`` with the config's settings; ``settings`` override them.

    Args:
        settings: keys of ``cache`` (``store``, ``dir``, ``workers``, ...).
        verify: read every record; damaged records are removed and built again.
        clean: remove the cache folders that were built with other settings in the same place.

    Raises:
        ConfigError: the config does not have a split, or a dataset does not support a cache. CacheError: no space, or no write permission.
    """
    caches = []
    for split, dataset in datasets_of(load_config(cfg), splits, settings or {}):
        cache = cache_of(dataset, dataset.cache_settings)
        if verify and (cache.store.folder / 'data.mdb').is_file():
            damaged = cache.store.damaged()
            cache.store.remove(damaged)
            say(f'{split}: {cache.store.entries() + len(damaged)} records read, {len(damaged)} damaged')
        start = time.monotonic()
        made = fill(cache, cache.settings.workers, say)
        size = (cache.store.folder / 'data.mdb').stat().st_size
        taken = time.monotonic() - start
        say(f'{split}: {len(cache.keys)} samples in {cache.store.folder}, {size_text(size)}; {made} made in {taken:.1f} s')
        for folder in cache.generations():
            taken = size_text((folder / 'data.mdb').stat().st_size)
            say(f'{split}: {"removed" if clean else "other settings left"} {folder}, {taken}{"" if clean else "; --clean removes it"}')
            if clean:
                shutil.rmtree(folder)
        caches.append(cache)
    return caches


def datasets_of(cfg: Config, splits: Sequence[str], settings: dict) -> Iterator[tuple[str, Any]]:
    """Yield the split and the dataset of each dataset that can have a cache. The caches are not built automatically."""
    register_all_modules(init_default_scope=True)
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not loader:
            has = [name for name in SPLITS if cfg.get(f'{name}_dataloader')]
            raise ConfigError(f'the config has no {split}_dataloader. It has one for: {", ".join(has) or "none of the splits"}.')
        described = loader['dataset'].to_dict() if hasattr(loader['dataset'], 'to_dict') else dict(loader['dataset'])
        passive(described, settings)
        dataset = DATASETS.build(described)
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        found = [part for part in nested_datasets(dataset) if getattr(part, 'cache_settings', None)]
        if not found:
            raise ConfigError(f'{split}_dataloader.dataset: {described.get("type")} keeps no cache.')
        yield from ((split, part) for part in found)


def passive(described: Any, settings: dict) -> None:
    """Set the cache settings of every dataset in a config's dict, in place, with ``build='never'``: the caller builds the caches."""
    if isinstance(described, (list, tuple)):
        for item in described:
            passive(item, settings)
    elif isinstance(described, dict):
        if 'ann_file' in described:
            described['cache'] = {**(described.get('cache') or {}), **settings, 'build': 'never'}
        for key in ('dataset', 'datasets'):
            passive(described.get(key), settings)


def advise(cfg: Config | str | Path, split: str = 'train', say: Callable[[str], None] = print) -> str:
    """Time the pipeline on the first samples from files, from an encoded and from a decoded cache; return the name of the fastest.

    One process, and everything is read once before the timing: this compares decoding time, not disk speed.
    """
    _, whole = next(datasets_of(load_config(cfg), [split], {}))
    count = min(len(whole), ADVISE_SAMPLES)
    dataset = whole.get_subset(list(range(count)))
    speeds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ('files', 'encoded', 'decoded'):
            dataset.pipeline.stored = None
            if name != 'files':
                cache = cache_of(dataset, replace(dataset.cache_settings or CacheSettings(), store=name, dir=folder, workers=1))
                fill(cache, 1, say=lambda line: None, progress=False)
                dataset.pipeline.stored = cache.read
                size = size_text((cache.store.folder / 'data.mdb').stat().st_size / count * len(whole))
            for i in range(count):                       # warm-up pass: the timed pass reads from memory
                dataset.pipeline.sample(i, (0, 0, i, 0))
            start = time.perf_counter()
            for i in range(count):
                dataset.pipeline.sample(i, (0, 1, i, 0))
            speeds[name] = count / (time.perf_counter() - start)
            say(f'{name:8} {speeds[name]:7.0f} images/s' + ('' if name == 'files' else f', {size} for {len(whole)} images'))
            if name != 'files':
                cache.store.close()
    best = max(speeds, key=speeds.get)
    say(f'fastest: {best}' + ('' if best == 'files' else f", cache=dict(type='lmdb', store='{best}')"))
    return best
