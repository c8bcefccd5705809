"""Checks that stop a run: ``num_classes`` differs from the dataset's classes; the loss is not finite."""
from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop
from torch import Tensor, nn

from detkit.data.classes import class_names
from detkit.engine.datasets import refuse_another_order
from detkit.engine.interrupt import TrainingFailed
from detkit.registry import HOOKS, ConfigError


@HOOKS.register_module()
class NumClassCheckHook(Hook):
    """Before a run, check that ``num_classes`` of every head equals the number of classes of the dataset.

    Class-agnostic heads (RPN) are not checked. Before an evaluation, also check that its dataset has the same labels as the training
    dataset or, without training, as the loaded checkpoint.

    Raises:
            ConfigError: the numbers or labels differ, or ``classes`` is one string instead of a tuple of names.
    """

    def before_train(self, runner: Any) -> None:
        check_classes(runner.model, runner.train_dataloader.dataset, 'train_dataloader')

    def before_val(self, runner: Any) -> None:
        check_classes(runner.model, runner.val_dataloader.dataset, 'val_dataloader')
        check_labels(runner, runner.val_dataloader.dataset, 'val_dataloader')

    def before_test(self, runner: Any) -> None:
        check_classes(runner.model, runner.test_dataloader.dataset, 'test_dataloader')
        check_labels(runner, runner.test_dataloader.dataset, 'test_dataloader')


def check_labels(runner: Any, dataset: Any, loader: str) -> None:
    trained_on, source = getattr(runner, 'checkpoint_classes', None), 'the checkpoint'
    if isinstance(runner._train_loop, BaseLoop):                          # it is built when training begins
        trained_on, source = class_names(getattr(runner.train_dataloader.dataset, 'metainfo', None)), 'train_dataloader'
    refuse_another_order(trained_on, class_names(getattr(dataset, 'metainfo', None)), source, loader)


def check_classes(model: nn.Module, dataset: Any, loader: str) -> None:
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if not classes:                                         # the dataset has no objects; another check reports that
        return
    if isinstance(classes, str):
        raise ConfigError(f"{loader}.dataset.metainfo.classes is the string '{classes}', not a tuple of names. For one class write "
                          f"('{classes}',), with the comma.")
    for name, count in class_counts(model):
        if count != len(classes):
            raise ConfigError(f'{name}.num_classes={count}, but the data of {loader} has {len(classes)} classes '
                              f"({', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}). Set {name}.num_classes="
                              f'{len(classes)}, or metainfo=dict(classes=...) of the data set.')


def class_counts(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the config key and ``num_classes`` of each head that classifies."""
    for name, module in model.named_modules():
        count = getattr(module, 'num_classes', None)
        if isinstance(count, int) and 'RPN' not in type(module).__name__:
            yield '.'.join(['model', *(p for p in name.split('.') if p not in ('', 'module'))]), count


@HOOKS.register_module()
class CheckInvalidLossHook(Hook):
    """Stop the run when the loss is nan or infinite; the error names the loss term, the iteration and the images.

    Args:
            interval: number of iterations between two checks.
            tolerance: number of consecutive batches that may have a non-finite loss; such batches are skipped. If positive, the loss
                is checked before each backward pass. 0: the first non-finite loss stops the run.

    Raises:
            TrainingFailed: in the training loop; no checkpoint is written after the error.
    """

    priority = 'HIGH'                                 # after mmengine's logging, before EMA and checkpoints

    def __init__(self, interval: int = 50, tolerance: int = 0) -> None:
        if interval < 1 or tolerance < 0:
            raise ConfigError('CheckInvalidLossHook: interval should be at least 1, tolerance at least 0.')
        self.interval, self.tolerance, self.in_a_row = interval if not tolerance else 1, tolerance, 0

    def before_train(self, runner: Any) -> None:
        self.in_a_row = 0
        if self.tolerance:
            wrapper = runner.optim_wrapper
            wrapper.update_params = partial(update_if_finite, wrapper, type(wrapper).update_params)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None) -> None:
        if not self.every_n_train_iters(runner, self.interval):
            return
        broken = {k: v for k, v in ((k, latest(runner, k)) for k in outputs or {}) if v is not None and not math.isfinite(v)}
        self.in_a_row = self.in_a_row + 1 if broken else 0
        if self.in_a_row > self.tolerance:
            raise TrainingFailed(explanation(runner, broken, data_batch))
        if broken:
            runner.logger.warning(f'iteration {runner.iter + 1} left out: {terms(broken)} (images: {images(data_batch)})')


def update_if_finite(wrapper: Any, update: Any, loss: Tensor, *args: Any, **kwargs: Any) -> None:
    """Update the parameters if ``loss`` is finite in all processes; otherwise count the iteration and skip the batch."""
    finite = torch.isfinite(loss.detach()).float()
    if dist.is_initialized():
        dist.all_reduce(finite, dist.ReduceOp.MIN)
    if finite:
        update(wrapper, loss, *args, **kwargs)
        return
    wrapper._inner_count += 1
    accumulated = any(p.grad is not None for g in wrapper.optimizer.param_groups for p in g['params'])
    if accumulated and wrapper.should_update():
        wrapper.step()
        wrapper.zero_grad()


def latest(runner: Any, term: str) -> float | None:
    """Return the value of a loss term from the log. Reading the tensor again would synchronize with the device once more."""
    history = runner.message_hub.log_scalars.get(f'train/{term}')
    return None if history is None else float(history.current())


def terms(values: dict[str, float]) -> str:
    return ', '.join(f'{k} = {v}' for k, v in values.items())


def images(batch: Any) -> str:
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    names = [str(s.get('img_path', s.get('img_id', '?'))) for s in samples or []]
    return ', '.join(names) or 'unknown'


def explanation(runner: Any, broken: dict[str, float], batch: Any) -> str:
    rate = next(iter(runner.optim_wrapper.get_lr().values()))[0]
    return (f'the loss is not finite: {terms(broken)}, at epoch {runner.epoch + 1}, iteration {runner.iter + 1}, learning rate {rate:.3g}; '
            f'images of the batch: {images(batch)}. Lower optim_wrapper.optimizer.lr or lengthen the warm-up, set '
            f'optim_wrapper.clip_grad="dict(max_norm=35)", and look at the annotations of these images. '
            f'Nothing was saved after the last checkpoint; custom_hooks="[dict(type=CheckInvalidLossHook, tolerance=3)]" would leave '
            f'such batches out.')
