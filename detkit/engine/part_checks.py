"""The parts of a config that the runner builds late, when a work dir exists already: samplers, schedules, the optimizer, hooks.

Their types, arguments and plain values are checked here, from the config alone.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from detkit.engine.loader_settings import is_whole
from detkit.engine.prepare import kind as type_name
from detkit.engine.schedule_checks import schedulers_of
from detkit.registry import (
    DATA_SAMPLERS,
    FUNCTIONS,
    HOOKS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    ConfigError,
    Registry,
    check_arguments,
    did_you_mean,
)

PARAMWISE = ('custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'flat_decay_mult', 'dwconv_decay_mult',
             'dcn_offset_lr_mult', 'bypass_duplicate')   # what mmengine's constructor reads; it ignores any other key
BUILT_HOOKS = ('CheckpointHook', 'EarlyStoppingHook')       # whose constructors check values and do nothing else
INTERVALS = ('interval', 'out_interval')


def part_problems(cfg: Config, splits: list[str]) -> Iterator[ConfigError]:
    """Yield an error, with its full key, for each part of a kind above that could not be built."""
    for split in splits:
        loader, key = cfg.get(f'{split}_dataloader'), f'{split}_dataloader'
        if isinstance(loader, dict):
            yield from class_problems(loader.get('sampler'), DATA_SAMPLERS, (key, 'sampler'), dataset=None, seed=None)
            yield from class_problems(loader.get('batch_sampler'), DATA_SAMPLERS, (key, 'batch_sampler'), sampler=None, batch_size=None)
            for name in ('collate_fn', 'worker_init_fn'):
                yield from class_problems(loader.get(name), FUNCTIONS, (key, name), check_args=False)
    if 'train' not in splits:
        return
    for key, scheduler in schedulers_of(cfg.get('param_scheduler')):     # mmengine's take any argument: building them tells more
        yield from class_problems(scheduler, PARAM_SCHEDULERS, (key,), check_args=False)
    wrapper = cfg.get('optim_wrapper')
    if isinstance(wrapper, dict) and 'optimizer' in wrapper:
        yield from class_problems(wrapper, OPTIM_WRAPPERS, ('optim_wrapper',), default='OptimWrapper', check_args=False)
        try:
            check_optimizer(wrapper)
        except ConfigError as error:
            yield error
    for name, hook in (cfg.get('default_hooks') or {}).items():
        yield from hook_problems(hook, ('default_hooks', name))
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        yield from hook_problems(hook, ('custom_hooks', f'[{i}]'))


def class_problems(part: Any, registry: Registry, path: tuple[str, ...], default: str | None = None, check_args: bool = True,
                   **given: Any) -> Iterator[ConfigError]:
    """Yield an error for a ``type`` that is missing or unknown, and with ``check_args`` for arguments that its class does not take.

    ``given``: what the builder adds where the config does not.
    """
    if not isinstance(part, dict):
        return
    args = {**given, **{k: v for k, v in part.items() if k != '_scope_'}}
    kind = args.pop('type', default)
    if kind is None:
        yield ConfigError(f"has no 'type' (keys: {', '.join(map(str, part)) or 'none'}).", path=path)
        return
    try:
        cls = registry.get(kind) if isinstance(kind, str) else kind
    except ConfigError as error:
        error.path = (*path, 'type')
        yield error
        return
    if check_args:
        try:
            check_arguments(cls, args)
        except ConfigError as error:
            error.path = path
            yield error


def hook_problems(hook: Any, path: tuple[str, ...]) -> Iterator[ConfigError]:
    if not isinstance(hook, dict):
        return
    args = {k: v for k, v in hook.items() if k != 'priority'}
    found = list(class_problems(args, HOOKS, path))
    for key in INTERVALS:
        if key in args and args[key] is not None and not is_whole(args[key], -1):
            found.append(ConfigError(f'is {args[key]!r}; it should be a whole number, or -1 for never.', path=(*path, key)))
    if not found and type_name(args) in BUILT_HOOKS:
        try:
            HOOKS.build(args)
        except ConfigError as error:
            error.path, error.cfg = path, None               # the path is complete
            found.append(error)
    yield from found


def check_optimizer(optim_wrapper: dict) -> None:
    """Raise ConfigError for an unknown optimizer, an argument that it does not take, a rate that is no number, a paramwise key that
    nobody reads."""
    optimizer, path = optim_wrapper.get('optimizer'), ('optim_wrapper', 'optimizer')
    if isinstance(optimizer, dict):
        for error in class_problems(optimizer, OPTIMIZERS, path, params=None):
            raise error
        for key in ('lr', 'weight_decay'):
            value = optimizer.get(key)
            if key in optimizer and not is_rate(value):
                raise ConfigError(f'is {value!r}; it should be a number, 0 or more.', path=(*path, key))
    constructor = optim_wrapper.get('constructor', 'DefaultOptimWrapperConstructor')
    for key in optim_wrapper.get('paramwise_cfg') or {} if constructor == 'DefaultOptimWrapperConstructor' else ():
        if key not in PARAMWISE:
            raise ConfigError(f"optim_wrapper.paramwise_cfg has no '{key}'.{did_you_mean(key, PARAMWISE)} It has: {', '.join(PARAMWISE)}.")


def is_rate(value: Any) -> bool:
    """Whether ``value`` is a number, 0 or more, or what only the optimizer can judge: a tensor, None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return math.isfinite(value) and value >= 0
    return not isinstance(value, (bool, str, list, tuple, dict))
