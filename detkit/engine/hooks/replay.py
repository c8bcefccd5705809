"""Derive every random number from the seed and the iteration, so that a resumed run equals an uninterrupted one."""
from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from torch import nn

from detkit.data.datasets.wrappers import nested_datasets, set_dataset_epoch
from detkit.registry import HOOKS
from detkit.structures.train_state import TrainState


@HOOKS.register_module()
class ReplayHook(Hook):
    """Set the seed and the epoch of dataset and sampler, give a TrainState to the modules that need it, and seed Python, numpy and torch
    before each iteration.

    The states of the global generators need not be saved: the random numbers of iteration i depend only on (seed, rank, i), not on
    earlier draws or on an evaluation in between.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Any) -> None:
        """Use the runner's seed; after a resume it is the checkpoint's."""
        for part in nested_datasets(runner.train_dataloader.dataset):
            if hasattr(part, 'seed'):
                part.seed = runner.seed
        self.modules_with_state = [module for module in runner.model.modules() if hasattr(module, 'train_state')]

    def before_train_epoch(self, runner: Any) -> None:
        set_dataset_epoch(runner.train_dataloader.dataset, runner.epoch)
        set_train_state(runner.model, train_state_of(runner))

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        python, numpy, *words = np.random.SeedSequence([runner.seed, runner.rank, runner.iter]).generate_state(4)
        random.seed(int(python))
        np.random.seed(int(numpy))
        torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
        state = train_state_of(runner)
        for module in self.modules_with_state:
            module.train_state = state


@HOOKS.register_module()
class SetEpochInfoHook(Hook):
    """Give a TrainState to the modules that need it before each epoch. detkit's runner does this without the hook."""

    def before_train_epoch(self, runner: Any) -> None:
        set_train_state(runner.model, train_state_of(runner))


def train_state_of(runner: Any) -> TrainState:
    return TrainState(runner.epoch, runner.iter, runner.max_epochs, runner.max_iters, runner.seed)


def set_train_state(model: nn.Module, state: TrainState) -> None:
    """Set ``train_state`` of every module that has it, and call ``set_epoch(epoch)``, MMDetection's interface, where it exists."""
    for module in model.modules():
        if hasattr(module, 'train_state'):
            module.train_state = state
        if hasattr(module, 'set_epoch'):
            module.set_epoch(state.epoch)
