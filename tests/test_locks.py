"""Lock files: one holder at a time, and none after its process."""
from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from detkit import locks
from detkit.locks import Busy, Owner, file_lock, is_alive


def holder(path: Path, seconds: float = 60.) -> int:
    """A child process that holds the lock."""
    pid = os.fork()
    if not pid:
        with file_lock(path):
            time.sleep(seconds)
        os._exit(0)
    while not path.exists() or not path.read_text():
        time.sleep(0.01)
    return pid


def test_a_lock_names_its_owner_and_is_gone_afterwards(tmp_path: Path):
    with file_lock(tmp_path / 'lock'):
        assert f'"pid": {os.getpid()}' in (tmp_path / 'lock').read_text()
        with pytest.raises(Busy, match=f'{tmp_path} is in use by process {os.getpid()} on '), file_lock(tmp_path / 'lock'):
            pass
    assert not (tmp_path / 'lock').exists()


def test_a_lock_ends_with_a_process_that_is_killed(tmp_path: Path):
    pid = holder(tmp_path / 'lock')
    with pytest.raises(Busy, match=f'process {pid} on'), file_lock(tmp_path / 'lock'):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert (tmp_path / 'lock').exists()
    with file_lock(tmp_path / 'lock'):
        assert f'"pid": {os.getpid()}' in (tmp_path / 'lock').read_text()


def test_a_forked_child_does_not_keep_the_lock_of_its_parent(tmp_path: Path):
    with file_lock(tmp_path / 'lock'):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    with file_lock(tmp_path / 'lock'):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_waiting_for_the_owner(tmp_path: Path):
    pid, seen = holder(tmp_path / 'lock', 0.5), []
    with file_lock(tmp_path / 'lock', seen.append):
        assert [owner.pid for owner in seen] == [pid]
    os.waitpid(pid, 0)


def test_without_locks_of_the_file_system_the_content_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locks, 'try_lock', lambda handle: None)
    pid = holder(tmp_path / 'lock')
    with pytest.raises(Busy), file_lock(tmp_path / 'lock'):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with file_lock(tmp_path / 'lock'):
        pass


def test_an_owner_that_is_not_known_is_told_as_that():
    assert str(Owner()) == 'another process' and not is_alive(0)
