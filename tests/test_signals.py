"""Stop signals: who gets them, and what becomes of a second one."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from detkit import signals
from detkit.signals import STOP_SIGNALS, Stopped, handle_stop_signals, raise_stopped, take_received


@pytest.mark.parametrize('signum, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGHUP, 129)])
def test_a_signal_raises_with_its_status_and_the_handlers_come_back(signum: int, status: int):
    before = [signal.getsignal(s) for s in STOP_SIGNALS]
    with pytest.raises(Stopped, match=signal.Signals(signum).name) as stop, handle_stop_signals(raise_stopped):
        signal.raise_signal(signum)
    assert stop.value.exit_status == status and [signal.getsignal(s) for s in STOP_SIGNALS] == before
    assert take_received() == signum and take_received() == 0


def test_a_signal_that_is_passed_on_counts_once_and_a_later_one_again(monkeypatch: pytest.MonkeyPatch):
    with handle_stop_signals(raise_stopped):
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(signals, 'SAME_SIGNAL_SECONDS', 0.)
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
    take_received()


class StopsWhenDeleted:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)               # Python drops the exception


def wait_for_a_signal() -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_signal_whose_exception_python_drops_is_not_lost(capfd: pytest.CaptureFixture):
    before = sys.unraisablehook
    with pytest.raises(Stopped, match='SIGTERM'), handle_stop_signals(raise_stopped):
        StopsWhenDeleted()
        wait_for_a_signal()
    assert sys.unraisablehook is before and take_received() == signal.SIGTERM
    assert capfd.readouterr().err == ''


def test_a_dropped_signal_reaches_the_handler_of_its_time_once():
    got: list[int] = []
    with handle_stop_signals(raise_stopped):
        StopsWhenDeleted()
        with handle_stop_signals(lambda signum, frame: got.append(signum)):
            time.sleep(0.5)
        assert got == [signal.SIGTERM] and not take_received()
        StopsWhenDeleted()
        assert take_received() == signal.SIGTERM          # what a training loop does when it begins
        time.sleep(0.5)                                   # so nothing is sent again


def test_a_hangup_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handle_stop_signals(raise_stopped):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not take_received()


WORKER = '''
import multiprocessing, os, sys, time
from detkit.signals import (blocked_stop_signals, end_with_parent, handle_stop_signals, ignore_stop_signals, kill_workers_at_exit,
                            raise_stopped)

def work():
    time.sleep(0.3)                      # a signal in this time waits
    ignore_stop_signals()
    end_with_parent()
    time.sleep(60)

with handle_stop_signals(raise_stopped):
    worker = multiprocessing.get_context('fork').Process(target=work, daemon=True)
    with blocked_stop_signals():
        worker.start()
    kill_workers_at_exit()
    try:
        print(worker.pid, flush=True)
        time.sleep(60)
    except KeyboardInterrupt as stop:
        time.sleep(0.5)
        print('alive' if worker.is_alive() else 'dead', flush=True)
        sys.exit(stop.exit_status)
'''


def test_a_new_worker_survives_a_signal_to_the_group_and_ends_with_the_process():
    process = subprocess.Popen([sys.executable, '-c', WORKER], stdout=subprocess.PIPE, text=True, start_new_session=True)
    worker = int(process.stdout.readline())
    os.killpg(process.pid, signal.SIGTERM)
    assert process.stdout.readline() == 'alive\n'
    assert process.wait(20) == 143                        # although the worker ignores the SIGTERM that Python sends at its exit
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_a_worker_ends_soon_after_a_killed_parent():
    process = subprocess.Popen([sys.executable, '-c', WORKER], stdout=subprocess.PIPE, text=True, start_new_session=True)
    process.stdout.readline()
    time.sleep(0.5)
    process.kill()
    process.wait()
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError('the worker is left')
