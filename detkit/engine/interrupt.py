"""Ctrl-C and SIGTERM during training: the iteration is finished, a checkpoint written, and the run can be resumed from there."""
from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist


class TrainingInterrupted(Exception):
    """Raised at a point of the run from which it can go on; ``exit_status`` is 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, signum: int) -> None:
        super().__init__(f'training was stopped by {signal.Signals(signum).name}')
        self.exit_status = 128 + signum


class TrainingFailed(RuntimeError):
    """The run cannot go on, through no mistake in the config that could be seen before."""

    exit_status = 1


class Interrupt:
    """Remembers that the user asked to stop. A second Ctrl-C, in a run of one process, stops at once."""

    def __init__(self) -> None:
        self.signum = 0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.signum == signal.SIGINT and not dist.is_initialized():
            raise KeyboardInterrupt
        if not self.signum:
            print('\nstopping after this iteration, then saving; press Ctrl-C again to stop at once without', file=sys.stderr, flush=True)
        self.signum = signum

    def asked(self) -> int:
        """The signal that any process of the run received, or 0. All processes get the same answer at the same iteration."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return self.signum
        device = 'cuda' if dist.get_backend() == 'nccl' else 'cpu'
        signum = torch.tensor(self.signum, device=device)
        dist.all_reduce(signum, dist.ReduceOp.MAX)
        return int(signum)

    @contextmanager
    def listening(self) -> Iterator['Interrupt']:
        """Take the signals over while the block runs (in the main thread; elsewhere Python allows no handlers)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {s: signal.signal(s, self) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def ignore_interrupts() -> None:
    """For data loader workers: a terminal sends Ctrl-C to them too, and the iteration still needs their batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
