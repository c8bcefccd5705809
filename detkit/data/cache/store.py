"""An LMDB file of records: opened on first use, read by many processes, written in whole transactions."""
from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detkit.data.cache import records

FIRST_SIZE = 1 << 30          # bytes of the map, doubled when full; the file grows only with its content
SPARE = 64 << 20              # bytes that must stay free on the disk beyond the expected size of a build


class CacheError(ValueError):
    """A cache cannot be read or written; the message says where and what to do."""


OPEN: dict[Path, tuple[bool, Any, int]] = {}    # LMDB opens a file once per process. folder -> (writable, environment, bytes)


def let_go() -> None:
    """Close all files before this process forks: a child must not use its parent's environment, and not every LMDB version detects it."""
    while OPEN:
        OPEN.popitem()[1][1].close()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(before=let_go)


class Store:
    """Records by key, in ``folder/data.mdb``.

    A process opens the file on first use; stores of one folder share it. If the folder is not writable, it is read without a lock file.

    Raises:
        CacheError: there is no LMDB file, it is another kind of file, or it is shorter than its header says.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder).resolve()

    def environment(self, write: bool = False) -> Any:
        """Return the open LMDB environment of this process."""
        writes, environment, length = OPEN.get(self.folder, (False, None, 0))
        if environment is not None and writes >= write:
            self.check_length(length)
            return environment
        self.close()
        opened = self.open(write)
        OPEN[self.folder] = write, opened, os.path.getsize(self.folder / 'data.mdb')
        return opened

    def open(self, write: bool) -> Any:
        import lmdb
        data = self.folder / 'data.mdb'
        if write:
            self.folder.mkdir(parents=True, exist_ok=True)
        elif not data.is_file():
            raise CacheError(f'{self.folder} holds no cache.')
        lock = write or os.access(self.folder, os.W_OK)
        size = max(data.stat().st_size if data.is_file() else 0, FIRST_SIZE)
        try:
            environment = lmdb.open(str(self.folder), map_size=size, readonly=not write, lock=lock, readahead=True, max_readers=512,
                                    meminit=False)
        except (lmdb.Error, OSError) as error:
            raise CacheError(f'{data} cannot be opened as a cache ({error}). Remove {self.folder} and build it anew.') from error
        try:
            self.check_length((environment.info()['last_pgno'] + 1) * environment.stat()['psize'])
        except CacheError:
            environment.close()
            raise
        return environment

    def check_length(self, expected: int) -> None:
        """Raise CacheError if the file is shorter than ``expected``: reading beyond the end of a mapped file kills the process."""
        data = self.folder / 'data.mdb'
        there = data.stat().st_size if data.exists() else 0
        if there < expected:
            raise CacheError(f'{data} is cut short: {there} of {expected} bytes. Remove {self.folder} and build it anew.')

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self.folder in OPEN:
            OPEN.pop(self.folder)[1].close()

    def begin(self, write: bool = False) -> Any:
        """Return a transaction; adopts a map size that another process has increased."""
        import lmdb
        environment = self.environment(write)
        try:
            return environment.begin(write=write, buffers=True)
        except lmdb.MapResizedError:
            environment.set_mapsize(0)
            return environment.begin(write=write, buffers=True)

    def read(self, key: bytes) -> dict[str, Any] | None:
        """Return the record of ``key``, with arrays copied out of the map; None if there is none."""
        if self.folder not in OPEN and not (self.folder / 'data.mdb').is_file():
            return None
        with self.begin() as transaction:
            found = transaction.get(key)
            try:
                return None if found is None else records.decode(found)
            except records.DamagedRecord as error:
                raise CacheError(f'{self.folder}: {error}. Remove that folder and build it anew.') from error

    def held(self, keys: Iterable[bytes]) -> list[bool]:
        """Return whether each of ``keys`` has a record."""
        if not (self.folder / 'data.mdb').is_file():
            return [False for _ in keys]
        with self.begin() as transaction:
            return [transaction.get(key) is not None for key in keys]

    def write(self, pairs: list[tuple[bytes, bytes]]) -> None:
        """Write all records or none; existing records are kept. The map doubles when it is full.

        Raises:
            CacheError: the disk is full, or the folder is not writable.
        """
        import lmdb
        while True:
            try:
                with self.begin(write=True) as transaction:
                    for key, record in pairs:
                        transaction.put(key, record, overwrite=True)
                return
            except lmdb.MapFullError:
                environment = self.environment(write=True)
                environment.set_mapsize(environment.info()['map_size'] * 2)
            except (lmdb.Error, OSError) as error:
                raise CacheError(f'{self.folder} cannot be written to ({error}). What is there stays whole; make room, or choose another '
                                 f"place: cache=dict(dir='...').") from error

    def entries(self) -> int:
        return self.environment().stat()['entries']

    def damaged(self) -> list[bytes]:
        """Return the keys of damaged records."""
        bad = []
        with self.begin() as transaction:
            for key, record in transaction.cursor():
                try:
                    records.check(record)
                except records.DamagedRecord:
                    bad.append(bytes(key))
        return bad

    def remove(self, keys: list[bytes]) -> None:
        with self.begin(write=True) as transaction:
            for key in keys:
                transaction.delete(key)
