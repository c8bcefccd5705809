"""Where a training stands, for modules that change with it."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainState:
    """Given to every module with an attribute ``train_state``, before each epoch and each iteration of a run.

    A module asks for it by a class attribute ``train_state = TrainState()``, which is also its state outside of a run. It follows from the
    run's place and seed, so that a checkpoint need not hold it: a resumed run hands out what the uninterrupted one would have.
    """

    epoch: int = 0                 # finished epochs; 0 throughout a training that counts iterations
    iteration: int = 0             # finished iterations
    max_epochs: int = 1            # of the whole training
    max_iters: int = 1
    seed: int = 0                  # of the run, the same in all its processes
