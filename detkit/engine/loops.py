"""Training loops that can stop and resume at any iteration, and a validation loop that can be interrupted."""
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

INFINITE = (InfiniteSampler, MultiSourceSampler, MMInfiniteSampler)     # an epoch of these samplers never ends


class SkipFirst:
    """Wrap a batch sampler so that its next pass skips the first ``skip`` batches; later passes are complete."""

    def __init__(self, batches: Iterable[list[int]], skip: int) -> None:
        self.batches, self.skip = batches, skip

    def __iter__(self) -> Iterator[list[int]]:
        skip, self.skip = self.skip, 0                # reset at the first batch, because torch creates some iterators that it never uses
        yield from itertools.islice(iter(self.batches), skip, None)

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:          # ``sampler`` and other attributes that hooks read
        if name == 'batches':
            raise AttributeError(name)
        return getattr(self.batches, name)


def skip_first(loader: DataLoader, skip: int) -> None:
    """Make the next pass over ``loader`` skip the first ``skip`` batches without loading them.

    The loader stays the same object, with its workers, buffers and options. torch forbids to replace the batch sampler of a loader,
    because other attributes are derived from it; none of them depends on where a pass begins.
    """
    name = 'sampler' if loader.batch_sampler is None else 'batch_sampler'
    vars(loader)[name] = SkipFirst(getattr(loader, name), skip)


def sampler_of(loader: DataLoader) -> Any:
    return loader.batch_sampler.sampler if hasattr(loader.batch_sampler, 'sampler') else loader.sampler


def endless(loader: DataLoader, start: int) -> Iterator[Any]:
    """Yield the batches of ``loader`` without end, starting at iteration ``start``: of an infinite sampler, or of successive epochs."""
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
    """mmengine's loop that can also resume in the middle of an epoch, and repeats an interrupted evaluation.

    Raises:
            ConfigError: the sampler is infinite.
    """

    skip = 0                       # number of batches of the first epoch that are already done
    is_evaluation_pending = False  # True: the run was stopped before the evaluation that is due at the resumed step

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
            while not self.is_finished():
                self.run_epoch()
                self.evaluate_if_due()
                if not self.is_finished():             # else nothing is left to resume, and the run ends here
                    self.runner.stop_if_asked()
            self.runner.call_hook('after_train')
        return self.runner.model

    def evaluate_if_due(self) -> None:
        self._decide_current_val_interval()
        if self.runner.val_loop is not None and due(self, self._epoch, self._max_epochs):
            self.runner.stop_if_asked()
            self.runner.val_loop.run()

    def is_finished(self) -> bool:
        return self._epoch >= self._max_epochs or self.stop_training

    def run_epoch(self) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        skip, self.skip = self.skip, 0
        if skip:
            skip_first(self.dataloader, skip)
        last = len(self.dataloader) - 1
        for idx, data_batch in enumerate(self.dataloader, skip):
            self.run_iter(idx, data_batch)
            if idx < last:                             # after the last batch, the epoch is finished first
                self.runner.stop_if_asked()
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class IterBasedTrainLoop(mmrunner.IterBasedTrainLoop):
    """mmengine's loop that resumes without loading the batches already done, and repeats an interrupted evaluation."""

    is_evaluation_pending = False  # see EpochBasedTrainLoop

    def __init__(self, runner: Any, dataloader: DataLoader | dict, max_iters: int, val_begin: int = 1, val_interval: int = 1000,
                 dynamic_intervals: list[tuple[int, int]] | None = None) -> None:
        # mmengine's constructor is not called: it starts the workers before the first iteration of a resumed run is known.
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
                while not self.is_finished():
                    self.runner.model.train()
                    self.run_iter(next(batches))
                    self.evaluate_if_due()
                    if not self.is_finished():         # else nothing is left to resume, and the run ends here
                        self.runner.stop_if_asked()
            self.runner.call_hook('after_train_epoch')
            self.runner.call_hook('after_train')
        return self.runner.model

    def evaluate_if_due(self) -> None:
        self._decide_current_val_interval()
        if self.runner.val_loop is not None and due(self, self._iter, self._max_iters):
            self.runner.val_loop.run()

    def is_finished(self) -> bool:
        return self._iter >= self._max_iters or self.stop_training


def due(loop: mmrunner.BaseLoop, done: int, total: int) -> bool:
    """Return whether an evaluation is due after ``done`` of ``total`` epochs or iterations."""
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == total)


@LOOPS.register_module()
class ValLoop(mmrunner.ValLoop):
    """mmengine's loop that stops between two batches if a signal asks for it.

    In distributed training it does not stop: processes may have different numbers of batches, so they cannot agree on where to stop.
    """

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        super().run_iter(idx, data_batch)
        if self.runner.training and self.runner.world_size == 1:
            self.runner.stop_if_asked()
