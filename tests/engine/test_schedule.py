"""Warm-up with the square of the step, and mmengine's schedules beside it."""
from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper

from detkit.engine.schedule import build_scheduler
from detkit.registry import ConfigError


def curve(steps: int, **cfg: Any) -> list[float]:
    wrapper = OptimWrapper(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2., momentum=0.5))
    scheduler = build_scheduler(cfg, wrapper, epoch_length=4)
    name, values = scheduler.param_name, []
    for _ in range(steps):
        values.append(wrapper.param_groups[0][name])
        wrapper.step()
        scheduler.step()
    return values


def test_the_warm_up_is_quadratic_and_reaches_the_rate() -> None:
    expected = [2 * ((k + 1) / 5) ** 2 for k in range(5)]
    assert curve(7, type='QuadraticWarmupLR', begin=0, end=5, by_epoch=False) == pytest.approx([*expected, 2, 2])


def test_epochs_turn_into_iterations() -> None:
    expected = [2 * ((k + 1) / 8) ** 2 for k in range(8)]
    assert curve(9, type='QuadraticWarmupLR', end=2, convert_to_iter_based=True) == pytest.approx([*expected, 2])
    assert curve(1, type='QuadraticWarmupMomentum', end=2, by_epoch=True) == pytest.approx([0.5 / 4])


@pytest.mark.parametrize('cfg, message', [
    (dict(type='QuadraticWarmupLR'), 'needs an end'),
    (dict(type='QuadraticWarmupLR', end=3, by_epoch=False, convert_to_iter_based=True), 'needs by_epoch=True'),
    (dict(type='CosineAnnealingLR', end=3, T_maxi=4), 'T_maxi'),
    (dict(type='MultiStepLR', end=0, milestones=[1]), 'end should be larger')])
def test_wrong_settings_are_config_errors(cfg: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        curve(1, **cfg)
