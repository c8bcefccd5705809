"""Exponential moving average of the weights, used for evaluation and publication."""
from __future__ import annotations

import math
from typing import Any

import torch
from mmengine import hooks as mmhooks
from mmengine.model import ExponentialMovingAverage
from torch import Tensor, nn

from detkit.engine.checkpoint import load_matching
from detkit.registry import HOOKS, MODELS, ConfigError, check_arguments


@MODELS.register_module()
class ExpMomentumEMA(ExponentialMovingAverage):
    """Exponential moving average that follows the weights quickly at first and slowly later (YOLOX, RTMDet).

    After ``steps`` updates, a new weight has the factor ``(1 - momentum) * exp(-(1 + steps) / gamma) + momentum``.

    Args:
        model: model whose weights are averaged.
        momentum: final factor of a new weight.
        gamma: number of updates after which the first term has fallen to 1/e; larger is slower.
        interval, device, update_buffers: as in mmengine.
    """

    def __init__(self, model: nn.Module, momentum: float = 0.0002, gamma: int = 2000, interval: int = 1, device: Any = None,
                 update_buffers: bool = False) -> None:
        if gamma <= 0:
            raise ConfigError(f'ExpMomentumEMA: gamma={gamma} should be positive.')
        super().__init__(model=model, momentum=momentum, interval=interval, device=device, update_buffers=update_buffers)
        self.gamma = gamma

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        averaged_param.lerp_(source_param, self.share(steps))

    def share(self, steps: int) -> float:
        """Return the factor of a new weight after ``steps`` updates."""
        return (1 - self.momentum) * math.exp(-float(1 + steps) / self.gamma) + self.momentum

    def update_parameters(self, model: nn.Module) -> None:
        """Like mmengine's, but update all tensors in one call if devices and dtypes match: a loop can cost more than a training step."""
        source = model.state_dict() if self.update_buffers else dict(model.named_parameters())
        floats = [(average, source[k]) for k, average in self.avg_parameters.items() if average.is_floating_point()]
        together = all(a.device == s.device and a.dtype == s.dtype for a, s in floats)
        if self.steps == 0 or self.steps % self.interval or not together:
            super().update_parameters(model)
            return
        averages, values = ([pair[i].detach() for pair in floats] for i in (0, 1))
        torch._foreach_lerp_(averages, values, self.share(int(self.steps)))
        if not self.update_buffers:
            for average, value in zip(self.module.buffers(), model.buffers()):
                average.data.copy_(value.data)
        self.steps += 1


@HOOKS.register_module()
class EMAHook(mmhooks.EMAHook):
    """mmengine's EMAHook that can also restore the weights after an interrupted evaluation, and logs no long list of unmatched keys."""

    inherits_arguments = True
    swapped = False                                   # True while model and averaged weights are swapped

    def __init__(self, ema_type: str = 'ExponentialMovingAverage', **options: Any) -> None:
        super().__init__(ema_type, **options)
        try:
            averaging = MODELS.get(ema_type)
        except ConfigError as error:
            error.path = ('ema_type',)
            raise
        check_arguments(averaging, {k: v for k, v in self.ema_cfg.items() if k != 'type'}, ('model',))

    def before_run(self, runner: Any) -> None:
        model = runner.model.module if hasattr(runner.model, 'module') else runner.model
        self.src_model, self.ema_model = model, MODELS.build(self.ema_cfg, model=model)

    def _swap_ema_parameters(self) -> None:
        super()._swap_ema_parameters()
        self.swapped = not self.swapped

    def put_back(self) -> None:
        if self.swapped:
            self._swap_ema_parameters()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Load the averaged weights. Keys that do not match are reported or refused when the model itself is loaded."""
        if runner._resume and 'ema_state_dict' in checkpoint:
            self._swap_ema_state_dict(checkpoint)     # in a checkpoint, state_dict holds the averaged weights
            load_matching(self.ema_model, checkpoint['ema_state_dict'])
        else:
            load_matching(self.ema_model.module, checkpoint['state_dict'])
