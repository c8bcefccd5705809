"""Stop signals in the main process and in its workers. Standard library only.

Ctrl-C (SIGINT), SIGTERM (``timeout``, ``docker stop``, SLURM's time limit), SIGUSR1 (SLURM's warning before the limit) and SIGHUP (a closed
terminal) often reach all processes of a group. Workers ignore them; the main process decides when its workers exit.
"""
from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = tuple(getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGUSR1', 'SIGHUP') if hasattr(signal, name))
POLL_SECONDS = 1.            # interval at which a worker checks that its parent is alive
SAME_SIGNAL_SECONDS = 0.5    # launchers such as timeout and make repeat a signal that the terminal has already sent
RESEND_SECONDS = 0.1         # delay before a signal is sent again after Python dropped its exception

_received: list[tuple[int, float]] = []   # (signal, time) received by ``raise_stopped`` and not yet handled by a training loop


class Stopped(KeyboardInterrupt):
    """Raised in the main thread by a stop signal; ``exit_status`` is 128 + the signal number, as in shells."""

    def __init__(self, signum: int) -> None:
        super().__init__(f'stopped by {signal.Signals(signum).name}')
        self.signum, self.exit_status = signum, 128 + signum


@contextmanager
def handle_stop_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call ``handler`` for each stop signal while the block runs, in this process but not in forked child processes.

    Python allows handlers only in the main thread; in other threads this does nothing. An ignored SIGHUP (``nohup``) stays ignored. If
    Python drops a ``Stopped`` because it was raised in a callback (of an import, of ``__del__``), the signal is sent again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:          # a new worker inherits this handler until it ignores signals
            handler(signum, frame)
    previous = {s: signal.getsignal(s) for s in STOP_SIGNALS}
    hup, report_dropped = getattr(signal, 'SIGHUP', None), sys.unraisablehook

    def on_dropped(dropped: sys.UnraisableHookArgs) -> None:
        if not isinstance(dropped.exc_value, Stopped):
            report_dropped(dropped)
        elif os.getpid() == owner:
            timer = threading.Timer(RESEND_SECONDS, resend, [dropped.exc_value.signum])
            timer.daemon = True
            timer.start()
    sys.unraisablehook = on_dropped
    for signum in STOP_SIGNALS:
        if signum != hup or previous[signum] is not signal.SIG_IGN:
            signal.signal(signum, handle)
    try:
        yield
    finally:
        sys.unraisablehook = report_dropped
        for signum, before in previous.items():
            signal.signal(signum, before if before is not None else signal.SIG_DFL)


def raise_stopped(signum: int, frame: FrameType | None) -> None:
    """Signal handler that raises Stopped. It also records the signal, because a library may catch the exception."""
    now = time.monotonic()
    is_repeated = bool(_received) and now - _received[-1][1] < SAME_SIGNAL_SECONDS
    _received.append((signum, now))
    if not is_repeated:
        raise Stopped(signum)


def resend(signum: int) -> None:
    """Send ``signum`` to this process again, unless a training loop has already handled it (``take_received``)."""
    if take_received():
        os.kill(os.getpid(), signum)


def take_received() -> int:
    """Return the first signal that ``raise_stopped`` received, or 0, and clear the record."""
    signum = _received[0][0] if _received else 0
    _received.clear()
    return signum


@contextmanager
def blocked_stop_signals() -> Iterator[None]:
    """Block stop signals while the block starts processes; a new process keeps them blocked until ``ignore_stop_signals``."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals() -> None:
    """Ignore stop signals in a worker process, because the main process still needs the worker's results."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def end_with_parent() -> None:
    """Exit a worker process soon after its parent has exited, even if the parent was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def kill_workers() -> None:
    """Kill the daemonic child processes that are still alive. They ignore the SIGTERM that Python sends when it exits."""
    multiprocessing = sys.modules.get('multiprocessing')
    for child in multiprocessing.active_children() if multiprocessing is not None else ():
        if child.daemon:
            child.kill()


def kill_workers_at_exit() -> None:
    """Call ``kill_workers`` when Python exits, before multiprocessing waits for the workers."""
    import multiprocessing.util  # noqa: F401  (its exit function is registered first, so it runs after this one)
    atexit.unregister(kill_workers)
    atexit.register(kill_workers)
