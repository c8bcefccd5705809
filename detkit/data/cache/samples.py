"""The cache of one data set: what its samples are before the first random step, by key."""
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
BATCH = 32            # records a transaction
TRIED = 8             # samples made to estimate a build's size
Records = tuple[list[tuple[bytes, bytes]], dict[int, str]]      # key and record of samples; index of others -> why they have none


@dataclass(frozen=True)
class CacheSettings:
    """``cache=dict(type='lmdb', ...)`` of a data set.

    Attributes:
        store: ``decoded``: arrays as they are before the first random step (fast); ``encoded``: the image files' bytes (small).
        dir: where; None: ``.detkit_cache`` in the data root.
        fingerprint: what of an image file must be unchanged: ``stat`` (size and time of change) or ``bytes`` (SHA-256, read once a run).
        build: ``auto``: what is missing is made when the data set is loaded; ``never``: missing samples are made each time.
        workers: processes that build; None: one a core.
        on_error: a cache that cannot be used: ``fail``, or ``uncached``: warn and go on without.
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
    """Samples of a data set as they are before the first random transform.

    A generation (a folder) belongs to one way of making them: format, ``store``, and the settings of the deterministic transforms. Within
    it a record's key follows from the image's entry in the annotations, so that a changed box or name finds no old record; what the image
    file was like is in the record and looked at on every read.

    Args:
        settings: of the config. root: the data root. ann_file: of the annotations.
        info: index -> the entry that the pipeline begins with. make: such an entry -> the sample before the first random transform.
        steps: the settings of the transforms up to there.
        skip_unreadable: leave out images that cannot be read, as a data set with ``on_error='skip'`` does.
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
        self.changed: set[int] = set()       # images whose file is gone or no longer what the record was made from

    def load_keys(self, count: int) -> None:
        """The keys of all ``count`` samples."""
        self.keys = np.frombuffer(b''.join(self.key_of(self.info(i)) for i in range(count)), np.uint8).reshape(-1, 16)

    def key_of(self, info: dict) -> bytes:
        entry = {k: v for k, v in info.items() if k != 'sample_idx'}
        entry['img_path'] = os.path.relpath(info['img_path'], self.root or '.')
        return hashlib.blake2b(repr(sorted(entry.items())).encode(), digest_size=16).digest()

    def key(self, index: int) -> bytes:
        return self.keys[index].tobytes()

    def read(self, index: int) -> dict | None:
        """Sample ``index`` before the first random transform; None: not kept, or its image has changed."""
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
        """The records of the samples of ``batch``.

        Raises:
            UnreadableImage: unless ``skip_unreadable``. CacheError: a sample cannot be kept.
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
        """What is kept of sample ``index``; None: a transform before the first random one gives no sample."""
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
        """Samples without a record, or whose image has changed since."""
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
        """What tells that the file at ``path`` has changed; None: it cannot be read."""
        return stat_of(path) if self.settings.fingerprint == 'stat' else digest_of(path)

    def label(self) -> None:
        """Write down what this generation is, for those who look for old ones."""
        write_json(self.store.folder / LABEL, dict(format=FORMAT, source=self.source, store=self.settings.store, steps=self.steps),
                   indent=1)

    def check_room(self, missing: list[int]) -> int:
        """The bytes that a build is expected to write.

        Raises:
            CacheError: the disk has no room for them, or the place cannot be written to.
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
        """The folders beside this generation that other settings made of the same annotations."""
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
    """The content of a file, uint8 (n,).

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
