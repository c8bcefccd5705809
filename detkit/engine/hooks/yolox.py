"""Training mode switch of YOLOX (https://arxiv.org/abs/2107.08430, Sec. 2.1): no mixing and an L1 loss in the last epochs."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from torch.nn.modules.batchnorm import _NormBase

from detkit.data.datasets.wrappers import nested_datasets
from detkit.registry import HOOKS, ConfigError


@HOOKS.register_module()
class YOLOXModeSwitchHook(Hook):
    """In the last epochs, disable the transforms ``skip_type_keys`` of the dataset and add the head's L1 loss.

    As in MMDetection, the switch is one epoch early: with ``num_last_epochs=15`` of 300 epochs, it is before epoch 285. Works with
    persistent workers, and after a resume before or after the switch.

    ``skip_type_keys``: names of transforms of a MultiImageMixDataset; names that its pipeline does not have are ignored.
    """

    def __init__(self, num_last_epochs: int = 15, skip_type_keys: Sequence[str] = ('Mosaic', 'RandomAffine', 'MixUp')) -> None:
        self.num_last_epochs, self.skip_type_keys, self.done = num_last_epochs, tuple(skip_type_keys), False

    def before_train(self, runner: Any) -> None:
        """
        Raises:
                ConfigError: the training dataset is not a MultiImageMixDataset, or the model has no head with an L1 loss.
        """
        self.done, self.mixing = False, [p for p in nested_datasets(runner.train_dataloader.dataset) if hasattr(p, 'update_skip_type_keys')]
        model = runner.model.module if hasattr(runner.model, 'module') else runner.model
        self.head = getattr(model, 'bbox_head', None)
        if not self.mixing:
            raise ConfigError('YOLOXModeSwitchHook leaves out transforms of a MultiImageMixDataset, and train_dataloader.dataset is none. '
                              'PipelineSwitchHook is for other data sets.')
        if not hasattr(self.head, 'use_l1'):
            raise ConfigError(f"YOLOXModeSwitchHook adds the L1 loss of model.bbox_head, and {type(self.head).__name__} has no 'use_l1'. "
                              f'PipelineSwitchHook only changes the pipeline.')
        self.head.use_l1 = False

    def before_train_epoch(self, runner: Any) -> None:
        if self.done or runner.epoch + 1 < runner.max_epochs - self.num_last_epochs:
            return
        left_out = [[key for key in self.skip_type_keys if key in dataset.names] for dataset in self.mixing]
        for dataset, keys in zip(self.mixing, left_out):
            dataset.update_skip_type_keys(keys)
        self.head.use_l1 = self.done = True
        runner.logger.info(f'epoch {runner.epoch + 1}: {", ".join(left_out[0]) or "nothing"} left out from now on, L1 loss added')


@HOOKS.register_module()
class SyncNormHook(Hook):
    """Before an evaluation, average the running statistics of norm layers over all processes."""

    def before_val_epoch(self, runner: Any) -> None:
        if get_world_size() == 1:
            return
        found = [s for m in runner.model.modules() if isinstance(m, _NormBase) for s in (m.running_mean, m.running_var) if s is not None]
        if found:
            together = torch.cat([s.detach().float() for s in found])
            all_reduce(together, op='mean')
            for own, mean in zip(found, together.split([len(s) for s in found])):
                own.copy_(mean)
