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

from detkit.data.samplers import InfiniteSampler, MultiSourceSampler
from detkit.engine.hooks.replay import set_epoch
from detkit.registry import LOOPS, ConfigError


class Remaining:
    """The batches of a batch sampler after the first ``skip``."""

    def __init__(self, batches: Iterable[list[int]], skip: int) -> None:
        self.batches, self.skip = batches, skip

    def __iter__(self) -> Iterator[list[int]]:
        return itertools.islice(iter(self.batches), self.skip, None)

    def __len__(self) -> int:
        return max(len(self.batches) - self.skip, 0)


def without_first(loader: DataLoader, skip: int) -> DataLoader:
    """A loader of ``loader``'s batches after the first ``skip``, which are not even read."""
    workers = dict(prefetch_factor=loader.prefetch_factor, multiprocessing_context=loader.multiprocessing_context) \
        if loader.num_workers else {}
    return DataLoader(loader.dataset, batch_sampler=Remaining(loader.batch_sampler, skip), num_workers=loader.num_workers,
                      collate_fn=loader.collate_fn, pin_memory=loader.pin_memory, timeout=loader.timeout,
                      worker_init_fn=loader.worker_init_fn, generator=loader.generator, **workers)


def endless(loader: DataLoader, start: int) -> Iterator[Any]:
    """Batches of ``loader`` for ever, from iteration ``start`` on: of an infinite sampler, or of one epoch after the other."""
    sampler = loader.batch_sampler.sampler if hasattr(loader.batch_sampler, 'sampler') else loader.sampler
    if isinstance(sampler, (InfiniteSampler, MultiSourceSampler, MMInfiniteSampler)):
        yield from without_first(loader, start) if start else loader
        return
    for epoch in itertools.count(start // len(loader)):
        skip = start % len(loader) if epoch == start // len(loader) else 0
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(epoch)
        set_epoch(loader.dataset, epoch)
        yield from without_first(loader, skip) if skip else loader


@LOOPS.register_module()
class EpochBasedTrainLoop(mmrunner.EpochBasedTrainLoop):
    """mmengine's, resuming inside an epoch."""

    skip = 0     # batches of the first epoch that have been trained on already

    def run(self) -> nn.Module:
        with self.runner.interruptible():
            self.runner.call_hook('before_train')
            while self._epoch < self._max_epochs and not self.stop_training:
                self.run_epoch()
                self.runner.stop_if_asked()
                self._decide_current_val_interval()
                if self.runner.val_loop is not None and due(self, self._epoch, self._max_epochs):
                    self.runner.val_loop.run()
                    self.runner.stop_if_asked()
            self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        skip, self.skip = self.skip, 0
        batches = without_first(self.dataloader, skip) if skip else self.dataloader
        last = len(self.dataloader) - 1
        for idx, data_batch in enumerate(batches, skip):
            self.run_iter(idx, data_batch)
            if idx < last:                             # after the last one the epoch is closed first
                self.runner.stop_if_asked()
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class IterBasedTrainLoop(mmrunner.IterBasedTrainLoop):
    """mmengine's, resuming without reading the batches that were trained on before."""

    def __init__(self, runner: Any, dataloader: DataLoader | dict, max_iters: int, val_begin: int = 1, val_interval: int = 1000,
                 dynamic_intervals: list[tuple[int, int]] | None = None) -> None:
        # Not mmengine's constructor: it starts the workers, before anybody knows where a resumed run begins.
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
            with closing(endless(self.dataloader, self._iter)) as batches:
                while self._iter < self._max_iters and not self.stop_training:
                    self.runner.model.train()
                    self.run_iter(next(batches))
                    self._decide_current_val_interval()
                    if self.runner.val_loop is not None and due(self, self._iter, self._max_iters):
                        self.runner.val_loop.run()
                    self.runner.stop_if_asked()
            self.runner.call_hook('after_train_epoch')
            self.runner.call_hook('after_train')
        return self.runner.model


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
