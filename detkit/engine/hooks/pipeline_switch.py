"""Other transforms for the last epochs."""
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
    """From epoch ``switch_epoch`` (the first is 0) on, the training data passes through ``switch_pipeline`` instead.

    Works with persistent workers, which are started again, and after a resume on either side of the switch.
    """

    def __init__(self, switch_epoch: int, switch_pipeline: list[dict]) -> None:
        Compose(switch_pipeline)                          # raises for what could not be built, before the run
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
    """Give the innermost data sets of ``dataset`` a new pipeline."""
    holders = [p for p in nested_datasets(dataset) if hasattr(p, 'pipeline')]
    if not holders:
        raise ConfigError(f'PipelineSwitchHook: {type(dataset).__name__} has no pipeline to switch.')
    for holder in holders:
        before = holder.pipeline                          # knows how transforms that mix samples get at others
        holder.pipeline = Compose(pipeline, getattr(before, 'load', None), getattr(before, 'num_samples', partial(len, holder)))

