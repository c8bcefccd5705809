"""Check that the schedulers of a config fit the training: begin before end, milestones and switches before the last epoch."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config

from detkit.engine.prepare import kind as type_name
from detkit.registry import ConfigError

LENGTHS = ('max_epochs', 'max_iters', 'val_interval', 'val_begin')
WARM_UPS = ('LinearLR', 'QuadraticWarmupLR', 'ConstantLR', 'LinearMomentum', 'QuadraticWarmupMomentum', 'ConstantMomentum')


@dataclass
class ScheduleFindings:
    errors: list[ConfigError] = field(default_factory=list)    # the run is not possible
    notes: list[str] = field(default_factory=list)             # settings without effect, or with an unexpected effect


def schedule_problems(cfg: Config, batches: int | None = None) -> ScheduleFindings:
    """Check ``train_cfg``, ``param_scheduler`` and the hooks that act at a given epoch.

    ``batches``: number of batches per epoch, if known; otherwise iteration-based schedulers are compared with ``max_iters`` only.
    """
    found = ScheduleFindings()
    loop = cfg.get('train_cfg')
    if not isinstance(loop, dict):
        return found
    for key in LENGTHS:
        value = loop.get(key)
        if value is not None and not is_number(value, at_least=1 if key != 'val_begin' else 0, whole=True):
            found.errors.append(ConfigError(f'train_cfg.{key} is {value!r}; it should be a whole number, {0 if key == "val_begin" else 1} '
                                            f'or more.'))
    if found.errors:
        return found
    epochs, iterations = loop.get('max_epochs'), loop.get('max_iters')
    if iterations is None and epochs is not None and batches is not None:
        iterations = epochs * batches
    for key, scheduler in schedulers_of(cfg.get('param_scheduler')):
        check_scheduler(key, scheduler, epochs, iterations, found)
    total = epochs if epochs is not None else loop.get('max_iters')
    unit = 'epochs' if epochs is not None else 'iterations'
    if total is not None and cfg.get('val_dataloader') is not None and loop.get('val_begin', 1) > total:
        found.notes.append(f'train_cfg.val_begin={loop["val_begin"]} lies beyond the {total} {unit} of the training: nothing is evaluated, '
                           f'and no best checkpoint is kept.')
    if epochs is not None:
        check_hooks(cfg, epochs, found)
    return found


def is_number(value: Any, at_least: float, whole: bool = False) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= at_least and not (whole and int(value) != value)


def schedulers_of(described: Any) -> Iterator[tuple[str, dict]]:
    """Yield the key and the config of each scheduler; with several optimizers there is one list per optimizer."""
    if isinstance(described, dict) and 'type' not in described:
        for name, inner in described.items():
            for key, one in schedulers_of(inner):
                yield key.replace('param_scheduler', f'param_scheduler.{name}', 1), one
    elif isinstance(described, dict):
        yield 'param_scheduler', described
    elif isinstance(described, (list, tuple)):
        for i, one in enumerate(described):
            if isinstance(one, dict):
                yield f'param_scheduler[{i}]', one


def check_scheduler(key: str, cfg: dict, epochs: int | None, iterations: int | None, found: ScheduleFindings) -> None:
    kind = type_name(cfg)
    by_epoch, begin, end = cfg.get('by_epoch', True), cfg.get('begin', 0), cfg.get('end')
    total, unit = (epochs, 'epochs') if by_epoch else (iterations, 'iterations')
    if by_epoch and epochs is None and iterations is not None and not cfg.get('convert_to_iter_based') and kind != 'ReduceOnPlateauLR':
        found.notes.append(f'{key}: {kind} counts epochs (by_epoch is True by default), and this training counts iterations: it never '
                           f'moves. Set by_epoch=False.')
        return
    if not is_number(begin, 0) or not (end is None or is_number(end, 0)):
        return                                           # the constructor reports valid values
    last = total if end is None else end
    if last is not None and begin >= last:
        stands = f'end={end}' if end is not None else f'the {total} {unit} of the training'
        found.errors.append(ConfigError(f'{key}: begin={begin} is not before {stands}. Give {kind} a begin below its end, or train '
                                        f'longer.'))
        return
    if total is None:
        return
    milestones = [m for m in cfg.get('milestones') or () if is_number(m, 0)]
    late = [m for m in milestones if m >= total]
    if begin >= total:
        found.notes.append(f'{key}: {kind} begins at {begin}, the training has {total} {unit}: it never comes into force.')
    elif late:
        found.notes.append(f'{key}: the milestones {late} lie beyond the {total} {unit} of the training: nothing changes there.')
    elif end is not None and end > total and kind in WARM_UPS:
        found.notes.append(f'{key}: the warm-up lasts until {end}, the training has {total} {unit}: the rate never reaches its full value.')
    elif end is not None and end > total and not milestones:
        found.notes.append(f'{key}: {kind} lasts until {end}, the training has {total} {unit}: it ends on the way.')


def check_hooks(cfg: Config, epochs: int, found: ScheduleFindings) -> None:
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        if not isinstance(hook, dict):
            continue
        kind, key = type_name(hook), f'custom_hooks[{i}]'
        if kind == 'PipelineSwitchHook' and epochs > 1 and is_number(hook.get('switch_epoch'), epochs):    # one epoch: no switch
            found.notes.append(f'{key}: PipelineSwitchHook.switch_epoch={hook["switch_epoch"]}, the training has {epochs} epochs (the '
                               f'first is 0): the pipeline is never switched.')
        if kind == 'YOLOXModeSwitchHook' and is_number(hook.get('num_last_epochs', 15), epochs):
            found.notes.append(f'{key}: YOLOXModeSwitchHook.num_last_epochs={hook.get("num_last_epochs", 15)}, the training has {epochs} '
                               f'epochs: images are never mixed.')
        if kind == 'EMAHook' and is_number(hook.get('begin_epoch'), epochs) and hook['begin_epoch'] > 0:
            found.notes.append(f'{key}: EMAHook.begin_epoch={hook["begin_epoch"]}, the training has {epochs} epochs: nothing is averaged.')
