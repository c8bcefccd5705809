"""Filling a cache: in several processes, with progress; it may be stopped at any moment and goes on when called again."""
from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice

from detkit.data.cache.samples import BATCH, Records, SampleCache, size_text
from detkit.signals import blocked_stop_signals, end_with_parent, ignore_stop_signals

MAX_NAMED = 5                     # images that a message lists
MAKER: list[SampleCache] = []     # in a worker process: the cache whose records it makes


def fill(cache: SampleCache, workers: int | None = None, say: Callable[[str], None] = print, progress: bool = True) -> int:
    """Make every record that is missing or out of date; return how many were made. Samples without a record are logged, and are made on each use.

    Records are written in transactions of BATCH, by this process alone. Whatever stops it, the next call makes the rest. Several such
    builds at once are safe: they begin at different places, and each looks again before it makes a batch.

    Raises:
        CacheError: no room, or the place cannot be written to. UnreadableImage and whatever else a transform raises.
    """
    todo = cache.missing()
    if not todo:
        return 0
    expected = cache.check_room(todo)
    workers = min(workers if workers is not None else os.cpu_count() or 1, len(todo))
    say(f'cache: making {len(todo)} of {len(cache.keys)} samples ({cache.settings.store}, about {size_text(expected)}) '
        f'at {cache.store.folder}')
    cache.store.write([])
    cache.label()
    shift = len(todo) * (os.getpid() % 16) // 16
    batches = still_missing(cache, chunks(todo[shift:] + todo[:shift], BATCH))
    from tqdm import tqdm
    with tqdm(total=len(todo), desc='cache', unit='image', disable=not progress) as bar:
        made, left_out = 0, {}
        for pairs, without_record in records_of(cache, batches, workers):
            cache.store.write(pairs)
            made += len(pairs)
            left_out |= without_record
            bar.update(len(pairs) + len(without_record))
        bar.update(len(todo) - made - len(left_out))            # another process made those
    cache.store.close()           # opened again for reading, by whoever reads
    if left_out:
        cache.changed.update(left_out)
        reasons = list(left_out.values())
        say(f'cache: {len(reasons)} samples cannot be kept and are made on each use, as without a cache: '
            f'{"; ".join(reasons[:MAX_NAMED])}{"; ..." if len(reasons) > MAX_NAMED else ""}')
    return made


def chunks(values: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(values), size):
        yield values[start:start + size]


def still_missing(cache: SampleCache, batches: Iterator[list[int]]) -> Iterator[list[int]]:
    """Each batch without the samples that another process has made in the meantime."""
    for batch in batches:
        held = cache.store.held([cache.key(i) for i in batch])
        batch = [i for i, there in zip(batch, held) if not there or cache.stale(i)]
        if batch:
            yield batch


def records_of(cache: SampleCache, batches: Iterator[list[int]], workers: int) -> Iterator[Records]:
    """What ``SampleCache.records_of`` gives of each batch; at most two batches a worker are under way at once."""
    if workers <= 1:
        for batch in batches:
            yield cache.records_of(batch)
        return
    cache.store.close()                         # an open environment must not be forked
    context = multiprocessing.get_context('fork' if hasattr(os, 'fork') else 'spawn')
    with ProcessPoolExecutor(workers, context, begin, (cache,)) as pool:
        running: set[Future] = set()
        try:
            with blocked_stop_signals():        # the pool starts its processes when it gets work
                running |= {pool.submit(make, batch) for batch in islice(batches, 2 * workers)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                running |= {pool.submit(make, batch) for batch in islice(batches, len(done))}
        finally:
            for future in running:
                future.cancel()


def begin(cache: SampleCache) -> None:
    """In a new worker process: ignore signals, which the main process handles, and end with it."""
    ignore_stop_signals()
    end_with_parent()
    from detkit.opencv import cv2
    cv2.setNumThreads(0)
    MAKER[:] = [cache]


def make(batch: list[int]) -> Records:
    cache, = MAKER
    return cache.records_of(batch)
