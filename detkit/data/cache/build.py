"""Build a cache in several processes, with progress; a stopped build continues on the next call."""
from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice

from detkit.data.cache.samples import BATCH, Records, SampleCache, size_text
from detkit.signals import blocked_stop_signals, end_with_parent, ignore_stop_signals

MAX_NAMED = 5                     # maximum number of images listed in a message
MAKER: list[SampleCache] = []     # in a worker process: the cache whose records it makes


def fill(cache: SampleCache, workers: int | None = None, say: Callable[[str], None] = print, progress: bool = True) -> int:
    """Make every record that is missing or out of date; return the number of records made.

    Samples without a record are logged, and are made on each use.

    Only this process writes records, in transactions of BATCH. If it stops, the next call makes the rest. Several builds of the same cache
    may run at once: they start at different positions, and each checks for existing records before it makes a batch.

    Raises:
        CacheError: the disk is full, or the folder is not writable. UnreadableImage and any other error of a transform.
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
        bar.update(len(todo) - made - len(left_out))            # made by another process
    cache.store.close()           # readers open it again
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
    """Yield each batch without the samples that another process has made in the meantime."""
    for batch in batches:
        held = cache.store.held([cache.key(i) for i in batch])
        batch = [i for i, there in zip(batch, held) if not there or cache.stale(i)]
        if batch:
            yield batch


def records_of(cache: SampleCache, batches: Iterator[list[int]], workers: int) -> Iterator[Records]:
    """Yield the result of ``SampleCache.records_of`` for each batch; at most two batches per worker are processed at once."""
    if workers <= 1:
        for batch in batches:
            yield cache.records_of(batch)
        return
    cache.store.close()                         # an open environment must not be forked
    context = multiprocessing.get_context('fork' if hasattr(os, 'fork') else 'spawn')
    with ProcessPoolExecutor(workers, context, begin, (cache,)) as pool:
        running: set[Future] = set()
        try:
            with blocked_stop_signals():        # the pool starts its processes on the first task
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
    """Initialise a worker process: ignore signals, which the main process handles, and exit when the main process exits."""
    ignore_stop_signals()
    end_with_parent()
    from detkit.opencv import cv2
    cv2.setNumThreads(0)
    MAKER[:] = [cache]


def make(batch: list[int]) -> Records:
    cache, = MAKER
    return cache.records_of(batch)
