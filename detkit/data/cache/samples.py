"""The cache of one dataset: its samples before the first random transform, by key."""
from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from detkit.data.cache import records
from detkit.data.cache.store import SPARE, CacheError, Store
from detkit.data.transforms.loading import UnreadableImage
from detkit.files import write_json
from detkit.registry import ConfigError, did_you_mean

FORMAT = 1
LABEL = 'generation.json'
BATCH = 32            # records per transaction
TRIED = 8             # samples made to estimate the size of a build
Records = tuple[list[tuple[bytes, bytes]], dict[int, str]]      # (key, record) of samples; index of the others -> why they have no record


@dataclass(frozen=True)
class CacheSettings:
    """The setting ``cache=dict(type='lmdb', ...)`` of a dataset.

    Attributes:
        store: ``decoded``: arrays before the first random transform (fast); ``encoded``: the bytes of the image files (small).
        dir: folder of the cache; None: ``.detkit_cache`` in the data root.
        fingerprint: how to detect a changed image file: ``stat`` (size and modification time) or ``bytes`` (SHA-256, read once per run).
        build: ``auto``: make missing samples when the dataset is loaded; ``never``: make missing samples on each use.
        workers: number of build processes; None: one per core.
        on_error: when the cache cannot be used: ``fail``, or ``uncached``: warn and continue without it.
    """

    type: str = 'lmdb'
    store: str = 'decoded'
    dir: str | None = None
    fingerprint: str = 'stat'
    build: str = 'auto'
    workers: int | None = None
    on_error: str = 'fail'

    @classmethod
    def from_config(cls, cfg: dict) -> 'CacheSettings':
        known = [f.name for f in fields(cls)]
        for key in cfg:
            if key not in known:
                raise ConfigError(f"cache has no '{key}'.{did_you_mean(key, known)} It has: {', '.join(known)}.", cfg)
        found = cls(**cfg)
        for key, values in (('type', ('lmdb',)), ('store', ('decoded', 'encoded')), ('fingerprint', ('stat', 'bytes')),
                            ('build', ('auto', 'never')), ('on_error', ('fail', 'uncached'))):
            if getattr(found, key) not in values:
                raise ConfigError(f"cache {key}='{getattr(found, key)}' is unknown. Known: {', '.join(values)}.", cfg)
        return found


class SampleCache:
    """Samples of a dataset before the first random transform.

    A generation (a folder) belongs to one way of making samples: format, ``store``, and the settings of the deterministic transforms.
    A record's key is computed from the image's annotation entry, so a changed box or name does not match an old record. The state of the
    image file is stored in the record and checked on every read.

    Args:
        settings: from the config. root: the data root. ann_file: the annotation file.
        info: index -> the input entry of the pipeline. make: this entry -> the sample before the first random transform.
        steps: the settings of the transforms before the first random one.
        skip_unreadable: leave out images that cannot be read, as a dataset with ``on_error='skip'`` does.
    """

    def __init__(self, settings: CacheSettings, root: str, ann_file: str, info: Callable[[int], dict], make: Callable[[dict], dict | None],
                 steps: list[str], skip_unreadable: bool = False) -> None:
        self.settings, self.root, self.info, self.make, self.steps = settings, root, info, make, steps
        self.skip_unreadable = skip_unreadable
        self.place = Path(settings.dir).expanduser() if settings.dir else Path(root or '.') / '.detkit_cache'
        self.source = os.path.abspath(ann_file) if settings.dir else os.path.relpath(ann_file, root or '.')   # the root may move
        mark = hashlib.sha256(repr((FORMAT, self.source, settings.store, steps if settings.store == 'decoded' else '')).encode())
        self.store = Store(self.place / f'{Path(ann_file).stem or "images"}-{settings.store}-{mark.hexdigest()[:10]}')
        self.keys = np.zeros((0, 16), np.uint8)
        self.changed: set[int] = set()       # images whose file is missing or changed since the record was made

    def load_keys(self, count: int) -> None:
        """Compute the keys of all ``count`` samples."""
        self.keys = np.frombuffer(b''.join(self.key_of(self.info(i)) for i in range(count)), np.uint8).reshape(-1, 16)

    def key_of(self, info: dict) -> bytes:
        entry = {k: v for k, v in info.items() if k != 'sample_idx'}
        entry['img_path'] = os.path.relpath(info['img_path'], self.root or '.')
        return hashlib.blake2b(repr(sorted(entry.items())).encode(), digest_size=16).digest()

    def key(self, index: int) -> bytes:
        return self.keys[index].tobytes()

    def read(self, index: int) -> dict | None:
        """Return sample ``index`` before the first random transform; None if it is not stored or its image has changed."""
        if index in self.changed:
            return None
        found = self.store.read(self.key(index))
        if found is None:
            return None
        info = self.info(index)
        if self.settings.fingerprint == 'stat' and found['file'] != stat_of(info['img_path']):
            self.changed.add(index)
            return None
        if self.settings.store == 'encoded':
            return self.make({**info, 'encoded': found['encoded']})
        return {**info, **found['sample']}

    def records_of(self, batch: list[int]) -> Records:
        """Return the records of the samples of ``batch``.

        Raises:
            UnreadableImage: unless ``skip_unreadable``. CacheError: a sample cannot be stored.
        """
        made, left_out = [], {}
        for index in batch:
            try:
                record = self.record(index)
            except UnreadableImage as error:
                if not self.skip_unreadable:
                    raise
                left_out[index] = f'{error.path} ({error.reason})'
                continue
            if record is None:
                left_out[index] = f"{self.info(index)['img_path']} (the pipeline gives no sample)"
            else:
                made.append((self.key(index), record))
        return made, left_out

    def record(self, index: int) -> bytes | None:
        """Return the record of sample ``index``; None if a transform before the first random one returns None."""
        info = self.info(index)
        path = info['img_path']
        file = self.fingerprint(path)
        if self.settings.store == 'encoded':
            return records.encode(dict(file=file, encoded=bytes_of(path)))
        sample = self.make(dict(info))
        if sample is None:
            return None
        try:
            return records.encode(dict(file=file, sample={k: v for k, v in sample.items() if k not in info or v is not info[k]}))
        except TypeError as error:
            raise CacheError(f"after {self.steps[-1].split('(')[0]}, {error} Declare the transform that writes it random=True, or use "
                             f"store='encoded'.") from error

    def missing(self) -> list[int]:
        """Return the samples without a record or whose image has changed since."""
        held = self.store.held([self.key(i) for i in range(len(self.keys))])
        if not any(held):
            return list(range(len(self.keys)))
        return [i for i, there in enumerate(held) if not there or self.stale(i)]

    def stale(self, index: int) -> bool:
        path = self.info(index)['img_path']
        with self.store.begin() as transaction:
            header, _ = records.read_header(memoryview(transaction.get(self.key(index))))
        kept = records.restored(header['file'], memoryview(b''), [0])
        return kept != self.fingerprint(path)

    def fingerprint(self, path: str) -> list[int] | str | None:
        """Return a value that changes when the file at ``path`` changes; None if the file cannot be read."""
        return stat_of(path) if self.settings.fingerprint == 'stat' else digest_of(path)

    def label(self) -> None:
        """Write a description of this generation, used to find old generations."""
        write_json(self.store.folder / LABEL, dict(format=FORMAT, source=self.source, store=self.settings.store, steps=self.steps),
                   indent=1)

    def check_room(self, missing: list[int]) -> int:
        """Return the number of bytes that a build is expected to write.

        Raises:
            CacheError: the disk has too little space, or the folder is not writable.
        """
        tried = missing[::max(len(missing) // TRIED, 1)][:TRIED]
        sizes = [len(record) for _, record in self.records_of(tried)[0]]
        expected = int(np.mean(sizes or [0]) * len(missing) * 1.05)
        try:
            self.place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(f"{self.place} cannot be made ({error.strerror}). Choose another place: cache=dict(dir='...').") from None
        free = shutil.disk_usage(self.place).free
        if expected + SPARE > free:
            raise CacheError(f'{self.place}: a cache of {len(missing)} samples takes {size_text(expected)}, and {size_text(free)} are '
                             f"free. Choose another place (cache=dict(dir='...')) or store='encoded'.")
        return expected

    def generations(self) -> list[Path]:
        """Return the folders of other generations (other settings, same annotations)."""
        return sorted(p.parent for p in self.place.resolve().glob(f'*/{LABEL}')
                      if p.parent != self.store.folder and json.loads(p.read_text()).get('source') == self.source)


def stat_of(path: str) -> list[int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def digest_of(path: str) -> str | None:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def bytes_of(path: str) -> np.ndarray:
    """Return the content of a file, uint8 (n,).

    Raises:
        UnreadableImage: it cannot be read.
    """
    try:
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise UnreadableImage(path, error.strerror or str(error)) from None


def size_text(count: float) -> str:
    for unit in ('B', 'kB', 'MB', 'GB'):
        if count < 1000:
            return f'{count:.0f} {unit}'
        count /= 1000
    return f'{count:.1f} TB'
