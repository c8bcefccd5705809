"""Stop training when a metric no longer improves."""
from __future__ import annotations

import math
from typing import Any

from mmengine.hooks import Hook

from detkit.registry import HOOKS, ConfigError, did_you_mean

EARLY_STOPPING = 'early_stopping'      # key in the message hub, which is saved in checkpoints
LOWER_IS_BETTER = ('loss', 'mr', 'error', 'latency')


def better_when(metric: str) -> str:
    """Return 'greater' if a higher ``metric`` is better (AP, AR, PQ, F1 and others), 'less' if a lower one is (losses, miss rates)."""
    words = metric.lower().replace('/', '_').split('_')
    return 'less' if any(w in LOWER_IS_BETTER or w.startswith('loss') or w == 'mmr' for w in words) else 'greater'


@HOOKS.register_module()
class EarlyStoppingHook(Hook):
    """Stop training when ``monitor`` has not improved for ``patience`` consecutive evaluations.

    The arguments are mmengine's. mmengine's default ``min_delta=0.1`` is meant for percentages; with an AP between 0 and 1 it would
    stop a run that still improves. The count is restored after a resume.

    Args:
            monitor: name of a metric as in the log, for example ``coco/bbox_mAP``.
            rule: whether 'greater' or 'less' is better; None: derived from the name.
            min_delta: minimum change from the best value that counts as an improvement. 0.001 is 0.1 points of AP.
            strict: True: raise an error if the metric is not computed; False (mmengine's default): log a warning.
            check_finite: stop when the metric is nan or infinite.
            patience: number of evaluations without an improvement after which the run stops.
            stopping_threshold: stop as soon as the metric is better than this value.

    Raises:
            ConfigError: an argument is out of range; at the first evaluation, ``monitor`` is not computed.
    """

    priority = 'LOW'                   # before the CheckpointHook, which saves the count

    def __init__(self, monitor: str, rule: str | None = None, min_delta: float = 0.001, strict: bool = True, check_finite: bool = True,
                 patience: int = 10, stopping_threshold: float | None = None) -> None:
        check_rule('EarlyStoppingHook', rule)
        if min_delta < 0 or patience < 1:
            raise ConfigError(f'EarlyStoppingHook: min_delta={min_delta} should be at least 0, patience={patience} at least 1.')
        self.monitor, self.sign, self.strict = monitor, 1 if (rule or better_when(monitor)) == 'greater' else -1, strict
        self.min_delta, self.check_finite, self.patience, self.stopping_threshold = min_delta, check_finite, patience, stopping_threshold
        self.best, self.wait_count = None, 0

    def before_train(self, runner: Any) -> None:
        """After a resume, restore the count."""
        state = runner.message_hub.runtime_info.get(EARLY_STOPPING) or {}
        if state.get('monitor') == self.monitor:
            self.best, self.wait_count = state['best'], state['wait_count']

    def after_val_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        if not runner.training:
            return
        metrics = metrics or {}
        if self.monitor not in metrics:
            text = (f"EarlyStoppingHook: the evaluation has no '{self.monitor}'.{did_you_mean(self.monitor, metrics)} "
                    f'It has: {", ".join(metrics) or "no metrics"}.')
            if self.strict:
                raise ConfigError(text)
            runner.logger.warning(text)
            return
        value = float(metrics[self.monitor])
        self.count(value)
        state = dict(monitor=self.monitor, value=value, best=self.best, wait_count=self.wait_count)
        runner.message_hub.update_info(EARLY_STOPPING, state)
        reason = self.reason(value)
        if reason:
            runner.train_loop.stop_training = True
            runner.logger.info(f'stopping early: {reason}')

    def count(self, value: float) -> None:
        """Update the best value and the count with the value of a new evaluation."""
        if math.isfinite(value) and (self.best is None or self.sign * (value - self.best) > self.min_delta):
            self.best, self.wait_count = value, 0
        else:
            self.wait_count += 1

    def reason(self, value: float) -> str:
        """Return why a run whose last evaluation gave ``value`` should stop, or '' if it should not."""
        if self.check_finite and not math.isfinite(value):
            return f'{self.monitor} is {value}'
        if self.stopping_threshold is not None and self.sign * (value - self.stopping_threshold) > 0:
            return f'{self.monitor} {value:.4f} is better than the stopping_threshold {self.stopping_threshold}'
        if self.wait_count >= self.patience:
            has_begun = bool(self.best) or self.sign < 0
            hint = '' if has_begun else '; it had not begun to rise: raise patience, or validate later by train_cfg.val_begin'
            return f'{self.monitor} did not improve on {self.best} by more than {self.min_delta} in {self.wait_count} evaluations{hint}'
        return ''


def has_stopped(state: dict | None, hook: dict) -> str:
    """Return why the EarlyStoppingHook with the config ``hook`` would stop the run that saved ``state``, or ''."""
    built = EarlyStoppingHook(**{k: v for k, v in hook.items() if k not in ('type', 'priority')})
    if not state or state['monitor'] != built.monitor:
        return ''
    built.best, built.wait_count = state['best'], state['wait_count']
    return built.reason(state['value'])


def check_rule(name: str, rule: Any) -> None:
    if rule not in (None, 'greater', 'less'):
        raise ConfigError(f"{name}: rule={rule!r} should be 'greater' or 'less'.{did_you_mean(str(rule), ('greater', 'less'))}")
