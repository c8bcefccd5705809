"""Stop signals during training: the iteration is finished, a checkpoint written, and the run can be resumed from there."""
from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import torch
import torch.distributed as dist

from detkit.signals import SAME_SIGNAL_SECONDS, Stopped, handle_stop_signals, take_received


class TrainingInterrupted(Exception):
    """Raised at a point of the run from which it can go on; ``exit_status`` is 128 + the signal: 130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1."""

    def __init__(self, signum: int, advice: str = '--resume goes on') -> None:
        super().__init__(f'training was stopped by {signal.Signals(signum).name}; {advice}')
        self.signum, self.exit_status = signum, 128 + signum


class TrainingFailed(RuntimeError):
    """The run cannot go on, through no mistake in the config that could be seen before."""

    exit_status = 1


class Interrupt:
    """Remembers that the run was asked to stop. A Ctrl-C after that, in a run of one process, stops at once."""

    def __init__(self) -> None:
        self.signum, self.received_at = 0, 0.

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signum and signum == signal.SIGINT and now - self.received_at > SAME_SIGNAL_SECONDS and not dist.is_initialized():
            raise Stopped(signum)
        if not self.signum:
            self.received_at = now
            with suppress(OSError, RuntimeError):     # the terminal may be gone; or it is just being written to
                print('\nstopping after this iteration, then saving; press Ctrl-C again to stop at once without saving', file=sys.stderr,
                      flush=True)
        self.signum = self.signum or signum

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
        """Take the stop signals over while the block runs (in the main thread; elsewhere Python allows no handlers)."""
        self.signum = self.signum or take_received()     # one that a library swallowed while the run was being built
        with handle_stop_signals(self):
            yield self
