"""Stop signals during training: finish the iteration and save a checkpoint, from which the run can be resumed."""
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
    """Raised where the run can be resumed; ``exit_status`` is 128 + the signal: 130 for Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1."""

    def __init__(self, signum: int, advice: str = '--resume goes on') -> None:
        super().__init__(f'training was stopped by {signal.Signals(signum).name}; {advice}')
        self.signum, self.exit_status = signum, 128 + signum


class TrainingFailed(RuntimeError):
    """The run cannot continue, for a reason that could not be found in the config before."""

    exit_status = 1


class Interrupt:
    """Record that the run was asked to stop. In a run of one process, a second Ctrl-C stops it at once."""

    def __init__(self) -> None:
        self.signum, self.received_at = 0, 0.

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signum and signum == signal.SIGINT and now - self.received_at > SAME_SIGNAL_SECONDS and not dist.is_initialized():
            raise Stopped(signum)
        if not self.signum:
            self.received_at = now
            with suppress(OSError, RuntimeError):     # the terminal may be closed, or another print may be in progress
                print('\nstopping after this iteration, then saving; press Ctrl-C again to stop at once without saving', file=sys.stderr,
                      flush=True)
        self.signum = self.signum or signum

    def asked(self) -> int:
        """Return the signal that any process of the run received, or 0. All processes get the same result in the same iteration."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return self.signum
        device = 'cuda' if dist.get_backend() == 'nccl' else 'cpu'
        signum = torch.tensor(self.signum, device=device)
        dist.all_reduce(signum, dist.ReduceOp.MAX)
        return int(signum)

    @contextmanager
    def listening(self) -> Iterator['Interrupt']:
        """Handle stop signals while the block runs (in the main thread only; Python allows no handlers in other threads)."""
        self.signum = self.signum or take_received()     # an earlier signal whose exception a library caught while the run was built
        with handle_stop_signals(self):
            yield self
