"""The progress of a training run, for modules whose behaviour depends on it."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainState:
    """Set on every module with an attribute ``train_state``, before each epoch and each iteration of a run.

    A module requests it with a class attribute ``train_state = TrainState()``, which is also its state outside a run. The state follows
    from the run's progress and seed. Therefore checkpoints do not store it: a resumed run sets the same values as an uninterrupted run.
    """

    epoch: int = 0                 # finished epochs; always 0 in a run that counts iterations
    iteration: int = 0             # finished iterations
    max_epochs: int = 1            # total number of epochs
    max_iters: int = 1
    seed: int = 0                  # seed of the run, equal in all processes
