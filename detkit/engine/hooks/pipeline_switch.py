"""Change the transforms for the last epochs."""
from __future__ import annotations

from functools import partial
from typing import Any

from mmengine.hooks import Hook

from detkit.data.compose import Compose
from detkit.data.datasets.wrappers import nested_datasets
from detkit.engine.loaders import stop_workers
from detkit.registry import HOOKS, ConfigError


@HOOKS.register_module()
class PipelineSwitchHook(Hook):
    """From epoch ``switch_epoch`` (counted from 0) on, use ``switch_pipeline`` for the training data.

    Works with persistent workers, which are restarted, and after a resume before or after the switch.
    """

    def __init__(self, switch_epoch: int, switch_pipeline: list[dict]) -> None:
        Compose(switch_pipeline)                          # raises before the run if it cannot be built
        self.switch_epoch, self.switch_pipeline, self.done = switch_epoch, switch_pipeline, False

    def before_train(self, runner: Any) -> None:
        self.done = False

    def before_train_epoch(self, runner: Any) -> None:
        if self.done or runner.epoch < self.switch_epoch:
            return
        loader = runner.train_dataloader
        set_pipeline(loader.dataset, self.switch_pipeline)
        stop_workers(loader)
        self.done = True
        runner.logger.info(f'epoch {runner.epoch + 1}: switched to the other pipeline ({len(self.switch_pipeline)} transforms)')


def set_pipeline(dataset: Any, pipeline: list[dict]) -> None:
    """Set a new pipeline in the innermost datasets of ``dataset``."""
    holders = [p for p in nested_datasets(dataset) if hasattr(p, 'pipeline')]
    if not holders:
        raise ConfigError(f'PipelineSwitchHook: {type(dataset).__name__} has no pipeline to switch.')
    for holder in holders:
        before = holder.pipeline                          # it knows how mixing transforms load other samples
        holder.pipeline = Compose(pipeline, getattr(before, 'load', None), getattr(before, 'num_samples', partial(len, holder)))

