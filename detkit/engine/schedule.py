"""Learning-rate schedulers in addition to mmengine's, and how a resumed run restores their state."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.momentum_scheduler import MomentumSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import INF

from detkit.registry import PARAM_SCHEDULERS, ConfigError

# The progress of a scheduler. The rest of its state is settings, which come from the config.
PROGRESS = frozenset({'last_step', '_global_step', '_last_value', 'base_values', 'best', 'num_bad_epochs', 'cooldown_counter',
                      'last_epoch'})


@PARAM_SCHEDULERS.register_module()
class QuadraticWarmupParamScheduler(_ParamScheduler):
    """Warm up with the square of the step: after step k of T the value is ``base * ((k + 1) / T)^2`` (YOLOX).

    ``begin``, ``end``: first and last step of the warm-up; T is their difference.
    """

    def __init__(self, optimizer: Any, param_name: str, begin: int = 0, end: int = INF, last_step: int = -1, by_epoch: bool = True,
                 verbose: bool = False) -> None:
        if end >= INF:
            raise ConfigError('QuadraticWarmup needs an end: the step at which the value is reached.')
        self.total_iters = end - begin
        super().__init__(optimizer=optimizer, param_name=param_name, begin=begin, end=end, last_step=last_step, by_epoch=by_epoch,
                         verbose=verbose)

    @classmethod
    def build_iter_from_epoch(cls, *args: Any, begin: int = 0, end: int = INF, by_epoch: bool = True,
                              epoch_length: int | None = None, **kwargs: Any) -> 'QuadraticWarmupParamScheduler':
        """Build the schedule in iterations from settings in epochs of ``epoch_length`` iterations."""
        if not by_epoch or not epoch_length:
            raise ConfigError('convert_to_iter_based needs by_epoch=True.')
        return cls(*args, begin=int(begin * epoch_length), end=end if end >= INF else int(end * epoch_length), by_epoch=False, **kwargs)

    def _get_value(self) -> list[float]:
        # Add the difference of squares to the current value, so that this scheduler can run together with others, as mmengine's can.
        step = (2 * self.last_step + 1) / self.total_iters ** 2
        if self.last_step == 0:
            return [base * step for base in self.base_values]
        return [group[self.param_name] + base * step for base, group in zip(self.base_values, self.optimizer.param_groups)]


@PARAM_SCHEDULERS.register_module()
class QuadraticWarmupLR(LRSchedulerMixin, QuadraticWarmupParamScheduler):
    """QuadraticWarmupParamScheduler of the learning rate."""


@PARAM_SCHEDULERS.register_module()
class QuadraticWarmupMomentum(MomentumSchedulerMixin, QuadraticWarmupParamScheduler):
    """QuadraticWarmupParamScheduler of the momentum."""


def build_scheduler(cfg: dict, optimizer: Any, epoch_length: int) -> _ParamScheduler:
    """Build one scheduler; ``convert_to_iter_based`` converts a schedule in epochs to one that is updated every iteration.

    Raises:
            ConfigError: the type is unknown, or an argument is wrong or missing.
    """
    args = dict(cfg)
    convert = args.pop('convert_to_iter_based', False)
    if convert and not args.get('by_epoch', True):
        raise ConfigError('convert_to_iter_based=True needs by_epoch=True: it turns epochs into iterations.', cfg)
    try:
        if not convert:
            return PARAM_SCHEDULERS.build(args, optimizer=optimizer)
        kind = args.pop('type')
        cls = PARAM_SCHEDULERS.get(kind) if isinstance(kind, str) else kind
        return cls.build_iter_from_epoch(optimizer=optimizer, epoch_length=epoch_length, **args)
    except (TypeError, ValueError, AssertionError) as error:   # mmengine's schedulers accept any argument and raise inside
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{cfg.get('type')}: {error}", cfg) from error


def settings(scheduler: _ParamScheduler) -> dict[str, Any]:
    """Return the settings of ``scheduler``: its state without the progress."""
    return {k: v for k, v in vars(scheduler).items() if k not in PROGRESS and k not in ('optimizer', 'verbose') and not callable(v)}


def stored(scheduler: _ParamScheduler) -> dict[str, Any]:
    """Return the state of ``scheduler`` for a checkpoint, without the functions that some schedulers keep."""
    return {k: v for k, v in scheduler.state_dict().items() if not callable(v)}


def resume_schedulers(schedulers: Sequence[_ParamScheduler], states: Sequence[dict], groups: Sequence[dict], epoch: int, iteration: int,
                      epoch_length: int, replay: bool = False) -> list[str]:
    """Set ``schedulers``, newly built from the config, to their state after ``epoch`` epochs and ``iteration`` iterations.

    mmengine 0.10.7 restores everything from the checkpoint, also ``end`` and ``T_max``: a run resumed with more epochs keeps the
    old curve. Here the config's settings are used. If they differ from the checkpoint's (or with ``replay``), the schedulers are stepped
    from the start of the new curve to the current step, because the value of the old curve may not be on the new one.
    ``groups``: parameter groups of the optimizer, with correct ``initial_*``. Returns the changed settings as text.
    """
    changes = differences(schedulers, states)
    waiting = [getattr(s, 'need_val_args', False) for s in schedulers]    # schedulers that react to metrics have no fixed curve
    for scheduler, state, reacts in zip(schedulers, states, waiting):
        if reacts or not (changes or replay):
            vars(scheduler).update({k: v for k, v in state.items() if k in PROGRESS})
    if not changes and not replay:
        return []
    schedulers = [s for s, reacts in zip(schedulers, waiting) if not reacts]
    for scheduler in schedulers:
        scheduler.last_step, scheduler._global_step = -1, -1
        scheduler.base_values = [g[f'initial_{scheduler.param_name}'] for g in groups]
    for group in groups:
        for name in {s.param_name for s in schedulers}:
            group[name] = group[f'initial_{name}']
    follow(schedulers, iteration, epoch, epoch_length)
    return changes


def differences(schedulers: Sequence[_ParamScheduler], states: Sequence[dict]) -> list[str]:
    if len(schedulers) != len(states):
        return [f'{len(states)} schedules became {len(schedulers)}']
    return [f'param_scheduler[{i}].{key}: {state[key]} became {value}'
            for i, (scheduler, state) in enumerate(zip(schedulers, states))
            for key, value in settings(scheduler).items() if key in state and state[key] != value]


def follow(schedulers: Sequence[_ParamScheduler], iterations: int, epochs: int, epoch_length: int) -> None:
    """Step ``schedulers`` as often as a run of ``epochs`` and ``iterations`` does, without training."""
    for optimizer in {id(s.optimizer): s.optimizer for s in schedulers}.values():
        optimizer._global_step = max(iterations, 0)     # otherwise they warn that the optimizer has not been stepped
    for scheduler in schedulers:
        scheduler.step()                                # as the constructors do
    by_iteration, by_epoch = [s for s in schedulers if not s.by_epoch], [s for s in schedulers if s.by_epoch]
    done = 0
    for iteration in range(iterations):
        for scheduler in by_iteration:
            scheduler.step()
        if done < epochs and (iteration + 1) % epoch_length == 0:
            done += 1
            for scheduler in by_epoch:
                scheduler.step()
