"""Resume a run: weights, optimizer, schedulers, position in the data."""
from __future__ import annotations

from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from detkit.data.classes import class_names
from detkit.engine.datasets import check_resumed_classes
from detkit.engine.hooks.checkpoint import EVALUATED
from detkit.engine.hooks.ema import EMAHook
from detkit.engine.schedule import resume_schedulers
from detkit.registry import ConfigError


def resume_run(runner: Runner, filename: str, optimizer: bool, schedulers: bool) -> None:
    """Set ``runner`` (a DetRunner) to the state of the run that wrote ``filename``.

    The config's settings of optimizer and schedulers are used; the log lists those that differ from the checkpoint.

    Raises:
        ConfigError: the checkpoint has no optimizer or progress, or is of another model or of other classes.
    """
    checkpoint = runner.load_checkpoint(filename, strict=True)
    meta = checkpoint.get('meta') or {}
    if 'epoch' not in meta or 'iter' not in meta or (optimizer and 'optimizer' not in checkpoint):
        raise ConfigError(f"'{filename}' holds weights but not the state of a run, so it cannot be resumed. To start from its weights "
                          f"set load_from='{filename}' and leave resume out.")
    if 'ema_state_dict' in checkpoint and not any(isinstance(h, EMAHook) for h in runner.hooks):
        raise ConfigError(f"'{filename}' is of a run with an EMAHook: its weights are averages, which are not what training goes on from. "
                          f'Add the EMAHook to custom_hooks again, or start from the averages: load_from instead of resume.')
    check_resumed_classes(class_names(meta), class_names(getattr(runner.train_dataloader.dataset, 'metainfo', None)), filename)
    take_place(runner, meta)
    if 'message_hub' in checkpoint:
        runner.message_hub.load_state_dict(checkpoint['message_hub'])
        runner.message_hub.update_info_dict(dict(cfg=runner.cfg.pretty_text, experiment_name=runner.experiment_name))
    runner.train_loop.is_evaluation_pending = is_evaluation_pending(runner, meta)
    if optimizer:
        said = resume_optimizer(runner, checkpoint, schedulers)
        for line in said:
            runner.logger.info(f'the config differs from the checkpoint, and holds: {line}')
    runner._has_loaded = True
    runner.logger.info(f'resumed after epoch {runner.epoch}, iteration {runner.iter}')


def take_place(runner: Runner, meta: dict) -> None:
    """Set epoch and iteration of the loop and, within an epoch, the number of batches to skip."""
    loop, length = runner.train_loop, len(runner.train_dataloader)
    loop._epoch, loop._iter = meta['epoch'], meta['iter']
    if not hasattr(loop, 'skip'):                      # an iteration-based loop
        return
    before = meta.get('epoch_length', length)
    done = meta['iter'] - meta['epoch'] * before
    loop.skip = done if 0 < done <= length and before == length else 0
    loop._iter = meta['epoch'] * length + loop.skip
    if before != length:
        runner.logger.warning(f'an epoch has {length} iterations, and had {before} before (other data, batch size or number of '
                              f'processes): going on at the beginning of epoch {loop._epoch + 1}')


def is_evaluation_pending(runner: Runner, meta: dict) -> bool:
    """Return whether the run was stopped after its last training step but before an evaluation that may be due there."""
    evaluated = runner.message_hub.runtime_info.get(EVALUATED)      # None: an older checkpoint without this information
    counts_epochs = hasattr(runner.train_loop, 'skip')
    is_inside_epoch = counts_epochs and meta['iter'] != meta['epoch'] * meta.get('epoch_length', len(runner.train_dataloader))
    return evaluated is not None and evaluated < meta['iter'] and not is_inside_epoch


def resume_optimizer(runner: Runner, checkpoint: dict, schedulers: bool) -> list[str]:
    """Load the states of optimizer and schedulers; return the settings that the config changes."""
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    wrappers, states = by_name(runner.optim_wrapper), by_name(checkpoint['optimizer'], runner.optim_wrapper)
    scheduled = by_name(runner.param_schedulers or [], runner.optim_wrapper)
    stored = by_name(checkpoint.get('param_schedulers') or [], runner.optim_wrapper)
    said = []
    for name, wrapper in wrappers.items():
        mine = scheduled.get(name, [])
        changed, replay = load_optimizer(wrapper, states[name], {s.param_name for s in mine})
        said += changed
        if schedulers and mine:
            said += resume_schedulers(mine, stored.get(name, []), wrapper.param_groups, runner.epoch, runner.iter,
                                      len(runner.train_dataloader), replay)
    return said


def by_name(value: Any, wrapper: OptimWrapper | None = None) -> dict[str, Any]:
    """Return ``value`` as a dict by optimizer name if there are several optimizers, else ``{'': value}``."""
    several = hasattr(wrapper if wrapper is not None else value, 'optim_wrappers')
    return dict(value.items()) if several else {'': value}


def load_optimizer(wrapper: OptimWrapper, state: dict, scheduled: set[str]) -> tuple[list[str], bool]:
    """Load ``state`` but keep the config's settings of each group. Return the changed settings, and whether a scheduler's base changed."""
    fresh = [{k: v for k, v in g.items() if k != 'params' and k not in scheduled and k != 'betas'} for g in wrapper.param_groups]
    try:
        wrapper.load_state_dict(state)
    except ValueError as error:
        raise ConfigError(f"the checkpoint's optimizer does not fit this config's ({error}). Resume with the same optim_wrapper, or "
                          f'start from the weights: load_from instead of resume.') from error
    said, replay = [], False
    for group, settings in zip(wrapper.param_groups, fresh):
        for key, value in settings.items():
            if key in group and group[key] != value:
                said.append(f'optimizer {key}: {group[key]} became {value}')
                replay = replay or key.startswith('initial_')
                group[key] = value
    return list(dict.fromkeys(said)), replay
