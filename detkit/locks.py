"""Lock files between processes of one machine and, if the file system supports it, of several machines. Standard library only."""
from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

BUSY = (errno.EACCES, errno.EAGAIN)
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock, as written in the lock file."""

    pid: int = 0
    host: str = ''
    started: str = ''         # local time

    def __str__(self) -> str:
        return f'process {self.pid} on {self.host} (since {self.started})' if self.pid else 'another process'


HELD: dict[str, Owner] = {}   # real path of a lock file -> its owner; a POSIX lock does not stop its own process


class Busy(ValueError):
    """Another process holds the lock, or a process of another host held it last and did not remove the file."""

    def __init__(self, path: Path, owner: Owner) -> None:
        self.path, self.owner = path, owner
        super().__init__(f'{path.parent} is in use by {owner}. Wait for it to end{self.remedy}.')

    @property
    def is_elsewhere(self) -> bool:
        return self.owner.host not in ('', socket.gethostname())

    @property
    def remedy(self) -> str:
        """What to do if the owner is on another host, where its state is unknown from here."""
        return f'; if it has ended already (nothing tells here about processes of another host), remove {self.path}' \
            if self.is_elsewhere else ''


@contextmanager
def file_lock(path: str | os.PathLike, on_wait: Callable[[Owner], None] | None = None) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs; the file names this process and is removed at the end.

    The lock is a POSIX record lock: it is released when its process ends for any reason, and forked children do not inherit it. The lock
    file of a dead process of this host is reused.

    Args:
        on_wait: None: a held lock is an error. Otherwise wait for an owner on this host; called once, when the wait begins.

    Raises:
        Busy: another process holds it.
        OSError: the file cannot be written.
    """
    path = Path(os.path.realpath(path))
    waiting = False
    while True:
        try:
            handle = open_locked(path)
            break
        except Busy as busy:
            if on_wait is None or busy.is_elsewhere:
                raise
            if not waiting:
                on_wait(busy.owner)
            waiting = True
            time.sleep(POLL_SECONDS)
    try:
        HELD[str(path)] = owner = Owner(os.getpid(), socket.gethostname(), time.strftime('%Y-%m-%d %H:%M:%S'))
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(asdict(owner)).encode(), 0)
        yield
    finally:
        HELD.pop(str(path), None)
        path.unlink(missing_ok=True)      # removed while locked: a process that opens it now detects that the file was removed
        os.close(handle)


def open_locked(path: Path) -> int:
    """Open ``path``, lock it and return the file descriptor."""
    held = HELD.get(str(path))
    if held is not None and held.pid == os.getpid():      # opening and closing the file would release the lock
        raise Busy(path, held)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            is_free, owner = try_lock(handle), read_owner(handle)
            if is_free is False or owner.host not in ('', socket.gethostname()) or is_free is None and is_alive(owner.pid):
                raise Busy(path, owner)
            if path.exists() and os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)                  # its owner removed the file in the meantime


def try_lock(handle: int) -> bool | None:
    """Lock the file. False: another process holds the lock. None: the file system has no locks, so only the content is known."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        return False if error.errno in BUSY else None


def read_owner(handle: int) -> Owner:
    try:
        return Owner(**json.loads(os.pread(handle, 4096, 0)))
    except (ValueError, TypeError):       # empty, because its owner is about to write, or written by another program
        return Owner()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0
