"""Training loops that can stop and go on between any two iterations, and a validation loop that can be left."""
from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

from mmengine import runner as mmrunner
from mmengine.dataset import InfiniteSampler as MMInfiniteSampler
from mmengine.runner.utils import calc_dynamic_intervals
from torch import nn
from torch.utils.data import DataLoader

from detkit.data.datasets.wrappers import set_dataset_epoch
from detkit.data.samplers import InfiniteSampler, MultiSourceSampler
from detkit.registry import LOOPS, ConfigError

INFINITE = (InfiniteSampler, MultiSourceSampler, MMInfiniteSampler)     # a pass over them never ends


class SkipFirst:
    """``batches``, a batch sampler, whose next pass begins after the first ``skip`` batches; later passes are whole."""

    def __init__(self, batches: Iterable[list[int]], skip: int) -> None:
        self.batches, self.skip = batches, skip

    def __iter__(self) -> Iterator[list[int]]:
        skip, self.skip = self.skip, 0                # when the first batch is asked for: torch makes some iterators that it never uses
        yield from itertools.islice(iter(self.batches), skip, None)

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:          # ``sampler`` and what else hooks look for
        if name == 'batches':
            raise AttributeError(name)
        return getattr(self.batches, name)


def skip_first(loader: DataLoader, skip: int) -> None:
    """Let the next pass over ``loader`` begin after its first ``skip`` batches, which are not even read.

    The loader stays the same object, with its workers, buffers and options. torch refuses to replace a batch sampler, because a loader
    keeps what it derived from it; nothing of that depends on where a pass begins.
    """
    name = 'sampler' if loader.batch_sampler is None else 'batch_sampler'
    vars(loader)[name] = SkipFirst(getattr(loader, name), skip)


def sampler_of(loader: DataLoader) -> Any:
    return loader.batch_sampler.sampler if hasattr(loader.batch_sampler, 'sampler') else loader.sampler


def endless(loader: DataLoader, start: int) -> Iterator[Any]:
    """Batches of ``loader`` for ever, from iteration ``start`` on: of an infinite sampler, or of one epoch after the other."""
    sampler = sampler_of(loader)
    is_infinite = isinstance(sampler, INFINITE)
    first, skip = (0, start) if is_infinite else divmod(start, len(loader))
    if skip:
        skip_first(loader, skip)
    if is_infinite:
        yield from loader
        return
    for epoch in itertools.count(first):
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(epoch)
        set_dataset_epoch(loader.dataset, epoch)
        yield from loader


@LOOPS.register_module()
class EpochBasedTrainLoop(mmrunner.EpochBasedTrainLoop):
    """mmengine's, resuming inside an epoch, and with an evaluation that was broken off.

    Raises:
        ConfigError: a sampler whose epochs never end.
    """

    skip = 0                       # batches of the first epoch that have been trained on already
    is_evaluation_pending = False  # the run was stopped before the evaluation of the place where it goes on

    def __init__(self, runner: Any, dataloader: DataLoader | dict, max_epochs: int, val_begin: int = 1, val_interval: int = 1,
                 dynamic_intervals: list[tuple[int, int]] | None = None) -> None:
        super().__init__(runner, dataloader, max_epochs, val_begin, val_interval, dynamic_intervals)
        if isinstance(sampler_of(self.dataloader), INFINITE):
            raise ConfigError(f"train_dataloader.sampler: an epoch of {type(sampler_of(self.dataloader)).__name__} never ends. Use "
                              f"dict(type='DefaultSampler', shuffle=True), or train_cfg=dict(type='IterBasedTrainLoop', max_iters=...).")

    def run(self) -> nn.Module:
        with self.runner.interruptible():
            self.runner.call_hook('before_train')
            if self.is_evaluation_pending:
                self.evaluate_if_due()
            while self._epoch < self._max_epochs and not self.stop_training:
                self.run_epoch()
                self.runner.stop_if_asked()
                self.evaluate_if_due()
            self.runner.call_hook('after_train')
        return self.runner.model

    def evaluate_if_due(self) -> None:
        self._decide_current_val_interval()
        if self.runner.val_loop is not None and due(self, self._epoch, self._max_epochs):
            self.runner.val_loop.run()
            self.runner.stop_if_asked()

    def run_epoch(self) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        skip, self.skip = self.skip, 0
        if skip:
            skip_first(self.dataloader, skip)
        last = len(self.dataloader) - 1
        for idx, data_batch in enumerate(self.dataloader, skip):
            self.run_iter(idx, data_batch)
            if idx < last:                             # after the last one the epoch is closed first
                self.runner.stop_if_asked()
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class IterBasedTrainLoop(mmrunner.IterBasedTrainLoop):
    """mmengine's, resuming without reading the batches that were trained on before, and with an evaluation that was broken off."""

    is_evaluation_pending = False  # as of EpochBasedTrainLoop

    def __init__(self, runner: Any, dataloader: DataLoader | dict, max_iters: int, val_begin: int = 1, val_interval: int = 1000,
                 dynamic_intervals: list[tuple[int, int]] | None = None) -> None:
        # Not mmengine's constructor: it starts the workers before it is known where a resumed run begins.
        mmrunner.BaseLoop.__init__(self, runner, dataloader)
        if int(max_iters) != max_iters:
            raise ConfigError(f'train_cfg.max_iters={max_iters} should be a whole number.')
        self._max_iters, self._max_epochs, self._epoch, self._iter = int(max_iters), 1, 0, 0
        self.val_begin, self.val_interval, self.stop_training = val_begin, val_interval, False
        self.runner.visualizer.dataset_meta = getattr(self.dataloader.dataset, 'metainfo', None)
        self.dynamic_milestones, self.dynamic_intervals = calc_dynamic_intervals(val_interval, dynamic_intervals)

    def run(self) -> nn.Module:
        with self.runner.interruptible():
            self.runner.call_hook('before_train')
            self.runner.call_hook('before_train_epoch')
            if self.is_evaluation_pending:
                self.evaluate_if_due()
            with closing(endless(self.dataloader, self._iter)) as batches:
                while self._iter < self._max_iters and not self.stop_training:
                    self.runner.model.train()
                    self.run_iter(next(batches))
                    self.evaluate_if_due()
                    self.runner.stop_if_asked()
            self.runner.call_hook('after_train_epoch')
            self.runner.call_hook('after_train')
        return self.runner.model

    def evaluate_if_due(self) -> None:
        self._decide_current_val_interval()
        if self.runner.val_loop is not None and due(self, self._iter, self._max_iters):
            self.runner.val_loop.run()


def due(loop: mmrunner.BaseLoop, done: int, total: int) -> bool:
    """Whether it is time for an evaluation, ``done`` of ``total`` epochs or iterations into training."""
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == total)


@LOOPS.register_module()
class ValLoop(mmrunner.ValLoop):
    """mmengine's, left between two batches when the user asked to stop: there is nothing to finish.

    Several processes finish it, because they may have different numbers of batches, between which they cannot agree to stop.
    """

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        super().run_iter(idx, data_batch)
        if self.runner.training and self.runner.world_size == 1:
            self.runner.stop_if_asked()
