"""One LMDB file of records: opened late, read by many processes, written in whole transactions."""
from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detkit.data.cache import records

FIRST_SIZE = 1 << 30          # bytes of the map; it grows by doubling, and the file only by what is written
SPARE = 64 << 20              # bytes that a disk must have left beyond what a build is expected to write


class CacheError(ValueError):
    """A cache that cannot be read or written; the message says where and what to do."""


OPEN: dict[Path, tuple[bool, Any, int]] = {}    # LMDB lets a process open a file once: folder -> for writing, the environment, bytes


def let_go() -> None:
    """Close every file, before this process forks: a child must not have its parent's open, and not every LMDB notices."""
    while OPEN:
        OPEN.popitem()[1][1].close()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(before=let_go)


class Store:
    """Records by key, in ``folder/data.mdb``.

    A process opens the file when it needs it; stores of one folder share it. Where the folder cannot be written to, it is read without a
    lock file.

    Raises:
        CacheError: no LMDB file is there, it is another kind of file, or shorter than it says.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder).resolve()

    def environment(self, write: bool = False) -> Any:
        """The open LMDB environment of this process."""
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
        """Raise CacheError for a file of fewer bytes: reading beyond the end of a mapped file kills the process."""
        data = self.folder / 'data.mdb'
        there = data.stat().st_size if data.exists() else 0
        if there < expected:
            raise CacheError(f'{data} is cut short: {there} of {expected} bytes. Remove {self.folder} and build it anew.')

    def close(self) -> None:
        """Let the file go; whoever reads next opens it again."""
        if self.folder in OPEN:
            OPEN.pop(self.folder)[1].close()

    def begin(self, write: bool = False) -> Any:
        """A transaction; another process may have let the map grow since the last."""
        import lmdb
        environment = self.environment(write)
        try:
            return environment.begin(write=write, buffers=True)
        except lmdb.MapResizedError:
            environment.set_mapsize(0)
            return environment.begin(write=write, buffers=True)

    def read(self, key: bytes) -> dict[str, Any] | None:
        """The record of ``key``, its arrays copied out of the map; None where there is none."""
        if self.folder not in OPEN and not (self.folder / 'data.mdb').is_file():
            return None
        with self.begin() as transaction:
            found = transaction.get(key)
            try:
                return None if found is None else records.decode(found)
            except records.DamagedRecord as error:
                raise CacheError(f'{self.folder}: {error}. Remove that folder and build it anew.') from error

    def held(self, keys: Iterable[bytes]) -> list[bool]:
        """Which of ``keys`` have a record."""
        if not (self.folder / 'data.mdb').is_file():
            return [False for _ in keys]
        with self.begin() as transaction:
            return [transaction.get(key) is not None for key in keys]

    def write(self, pairs: list[tuple[bytes, bytes]]) -> None:
        """Put all or none of the records; those that are there stay. The map doubles when it is full.

        Raises:
            CacheError: the disk is full, or the folder cannot be written to.
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
        """The keys of records that are not as they were written."""
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
