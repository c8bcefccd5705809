"""Every random number of a run follows from its seed and the place in it, so that a resumed run repeats the uninterrupted one."""
from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from torch import nn

from detkit.registry import HOOKS


@HOOKS.register_module()
class ReplayHook(Hook):
    """Hands the seed and the epoch to data set and sampler, epoch and iteration to the parts of the model that ask for them, and seeds
    Python, numpy and torch before each iteration.

    The states of the global generators need not be saved: what dropout draws in iteration i depends on (seed, process, i) alone,
    not on what was drawn before, nor on whether an evaluation lay in between.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Any) -> None:
        """After a resume, the seed is the checkpoint's."""
        for part in parts(runner.train_dataloader.dataset):
            if hasattr(part, 'seed'):
                part.seed = runner.seed
        self.counting = [module for module in runner.model.modules() if hasattr(module, 'set_iter')]

    def before_train_epoch(self, runner: Any) -> None:
        set_epoch(runner.train_dataloader.dataset, runner.epoch)
        tell_epoch(runner.model, runner.epoch)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        python, numpy, *words = np.random.SeedSequence([runner.seed, runner.rank, runner.iter]).generate_state(4)
        random.seed(int(python))
        np.random.seed(int(numpy))
        torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
        for module in self.counting:
            module.set_iter(runner.iter, runner.seed)


@HOOKS.register_module()
class SetEpochInfoHook(Hook):
    """Tell the model, or parts of it, that have ``set_epoch`` which epoch begins. In a run of detkit's runner that is done without it."""

    def before_train_epoch(self, runner: Any) -> None:
        tell_epoch(runner.model, runner.epoch)


def tell_epoch(model: nn.Module, epoch: int) -> None:
    """Call ``set_epoch`` of every module that has it: a loss may change with the epoch (TOOD)."""
    for module in model.modules():
        if hasattr(module, 'set_epoch'):
            module.set_epoch(epoch)


def parts(dataset: Any) -> Iterator[Any]:
    """``dataset`` and the data sets that it wraps."""
    yield dataset
    for name in ('dataset', '_dataset', 'datasets'):
        inner = vars(dataset).get(name) if hasattr(dataset, '__dict__') else None
        for part in inner if isinstance(inner, (list, tuple)) else [] if inner is None else [inner]:
            yield from parts(part)


def set_epoch(dataset: Any, epoch: int) -> None:
    for part in parts(dataset):
        if hasattr(part, 'set_epoch'):
            part.set_epoch(epoch)
