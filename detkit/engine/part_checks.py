"""Check parts of a config that the runner builds late, after the work dir exists: samplers, loops, schedulers, the optimizer, hooks.

Types, arguments and plain values are checked from the config alone.
"""
from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.runner.priority import Priority, get_priority
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from detkit.argument_values import value_fault
from detkit.engine.loader_settings import START_METHODS, is_whole
from detkit.engine.prepare import kind as type_name
from detkit.engine.schedule_checks import LENGTHS, schedulers_of
from detkit.registry import (
    DATA_SAMPLERS,
    FUNCTIONS,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    VISBACKENDS,
    VISUALIZERS,
    ConfigError,
    Registry,
    check_arguments,
    check_keys,
    did_you_mean,
    signature_of,
)

# Keys that mmengine's optimizer constructor reads; it ignores all others.
PARAMWISE = dict(custom_keys=dict[str, dict]) | dict.fromkeys(
    ('bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'flat_decay_mult', 'dwconv_decay_mult', 'dcn_offset_lr_mult'), float | None
) | dict(bypass_duplicate=bool)
BUILT_HOOKS = ('CheckpointHook', 'EarlyStoppingHook', 'EMAHook', 'LoggerHook', 'EmptyCacheHook', 'DetVisualizationHook',
               'PipelineSwitchHook')                        # their constructors only check values
INTERVALS = ('interval', 'out_interval')
LOOP_OF_SPLIT = dict(train='EpochBasedTrainLoop', val='ValLoop', test='TestLoop')
PACKAGE_OF_BACKEND = dict(TensorboardVisBackend='tensorboard', WandbVisBackend='wandb', MLflowVisBackend='mlflow', AimVisBackend='aim',
                          ClearMLVisBackend='clearml', NeptuneVisBackend='neptune', DVCLiveVisBackend='dvclive')
PROCESS_SETTINGS: dict[str, tuple[str, Callable[[Any], bool]]] = dict(
    mp_start_method=("'fork', 'spawn' or 'forkserver'", lambda v: isinstance(v, str) and v in START_METHODS),
    opencv_num_threads=('a whole number, 0 or more', lambda v: is_whole(v, 0)))
CLIP_FUNCTIONS = dict(norm=clip_grad_norm_, value=clip_grad_value_)


def part_problems(cfg: Config, splits: list[str]) -> Iterator[ConfigError]:
    """Yield an error with its full key for each part that could not be built."""
    for split in splits:
        loader, key = cfg.get(f'{split}_dataloader'), f'{split}_dataloader'
        if isinstance(loader, dict):
            yield from class_problems(loader.get('sampler'), DATA_SAMPLERS, (key, 'sampler'), dataset=None, seed=None)
            yield from class_problems(loader.get('batch_sampler'), DATA_SAMPLERS, (key, 'batch_sampler'), sampler=None, batch_size=None)
            for name in ('collate_fn', 'worker_init_fn'):
                yield from class_problems(loader.get(name), FUNCTIONS, (key, name), check_args=False)
        yield from loop_problems(cfg.get(f'{split}_cfg'), split)
    yield from visualizer_problems(cfg.get('visualizer'))
    yield from environment_problems(cfg.get('env_cfg') or {})
    yield from class_problems(cfg.get('log_processor'), LOG_PROCESSORS, ('log_processor',), default='LogProcessor')
    for name, hook in (cfg.get('default_hooks') or {}).items():
        yield from hook_problems(hook, ('default_hooks', name))
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        yield from hook_problems(hook, ('custom_hooks', f'[{i}]'))
    if 'train' not in splits:
        return
    for key, scheduler in schedulers_of(cfg.get('param_scheduler')):
        found = list(class_problems(scheduler, PARAM_SCHEDULERS, (key,), check_args=False))
        yield from found or scheduler_problems(scheduler, (key,))
    wrapper = cfg.get('optim_wrapper')
    if isinstance(wrapper, dict) and 'optimizer' in wrapper:
        args = {k: v for k, v in wrapper.items() if k not in ('optimizer', 'constructor', 'paramwise_cfg', 'clip_grad')}
        yield from class_problems(args, OPTIM_WRAPPERS, ('optim_wrapper',), default='OptimWrapper', optimizer=None)
        yield from wrapper_problems(wrapper)
        try:
            check_optimizer(wrapper)
        except ConfigError as error:
            yield error


def class_problems(part: Any, registry: Registry, path: tuple[str, ...], default: str | None = None, check_args: bool = True,
                   **given: Any) -> Iterator[ConfigError]:
    """Yield an error for a missing or unknown ``type`` and, with ``check_args``, for arguments that the class does not take.

    ``given``: arguments that the builder adds if the config does not have them.
    """
    if not isinstance(part, dict):
        return
    args = {k: v for k, v in part.items() if k != '_scope_'}
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
            check_arguments(cls, args, given)
        except ConfigError as error:
            error.path = (*path, *error.path)
            yield error


def scheduler_problems(scheduler: dict, path: tuple[str, ...]) -> Iterator[ConfigError]:
    """Yield an error for each scheduler argument that is unknown, missing or has an invalid value."""
    kind = scheduler['type']
    cls = PARAM_SCHEDULERS.get(kind) if isinstance(kind, str) else kind
    signature = signature_of(cls)
    args = {k: v for k, v in scheduler.items() if k not in ('type', '_scope_', 'convert_to_iter_based')}
    missing = [n for n, default in signature.defaults.items()
               if default is inspect.Parameter.empty and n not in (*args, 'optimizer', 'param_name')]
    convert = scheduler.get('convert_to_iter_based', False)
    if not isinstance(convert, bool):
        yield ConfigError(f'is {convert!r}; it should be True or False.', path=(*path, 'convert_to_iter_based'))
    try:
        check_arguments(cls, args, ('optimizer',))
    except ConfigError as error:
        error.path = (*path, *error.path)
        yield error
    else:
        if missing and not signature.is_open_ended:
            yield ConfigError(f"{cls.__name__} needs {', '.join(map(repr, missing))}.", path=path)


def loop_problems(loop: Any, split: str) -> Iterator[ConfigError]:
    """Yield errors for the loop of a split; the length of a training is checked together with its schedulers."""
    if isinstance(loop, dict):
        default = LOOP_OF_SPLIT[split]
        if split == 'train' and 'type' not in loop and not loop.get('by_epoch', True):
            default = 'IterBasedTrainLoop'
        args = {k: v for k, v in loop.items() if 'type' in loop or k != 'by_epoch'}
        given = dict(runner=None, dataloader=None) | ({} if split == 'train' else dict(evaluator=None))
        for error in class_problems(args, LOOPS, (f'{split}_cfg',), default=default, **given):
            if split != 'train' or error.path[-1] not in LENGTHS:
                yield error


def wrapper_problems(wrapper: dict) -> Iterator[ConfigError]:
    """Yield errors for ``clip_grad``; torch would report them only at the first step."""
    clip = wrapper.get('clip_grad')
    if clip is None:
        return
    path = ('optim_wrapper', 'clip_grad')
    kind = clip.get('type', 'norm') if isinstance(clip, dict) else None
    if kind not in CLIP_FUNCTIONS:
        yield ConfigError(f"is {clip!r}; it should be dict(max_norm=35), or dict(type='value', clip_value=1).", path=path)
        return
    try:
        check_arguments(CLIP_FUNCTIONS[kind], {k: v for k, v in clip.items() if k != 'type'}, ('parameters',))
    except ConfigError as error:
        error.path = (*path, *error.path)
        yield error


def visualizer_problems(visualizer: Any) -> Iterator[ConfigError]:
    """Yield errors for a visualizer and its backends, also for a backend whose package is not installed."""
    found = list(class_problems(visualizer, VISUALIZERS, ('visualizer',), default='Visualizer'))
    yield from found
    backends = visualizer.get('vis_backends') if isinstance(visualizer, dict) else None
    for i, backend in enumerate(backends if isinstance(backends, (list, tuple)) else [backends]):
        path = ('visualizer', 'vis_backends', f'[{i}]') if isinstance(backends, (list, tuple)) else ('visualizer', 'vis_backends')
        if isinstance(backend, str) or backend is None and backends is not None:
            yield ConfigError(f"is {backend!r}; it should be a dict with a type, such as dict(type='LocalVisBackend').", path=path)
            continue
        unknown = list(class_problems(backend, VISBACKENDS, path, check_args=False))
        yield from unknown or class_problems(backend, VISBACKENDS, path, save_dir=None)
        package = PACKAGE_OF_BACKEND.get(type_name(backend)) if isinstance(backend, dict) else None
        if package is not None and importlib.util.find_spec(package) is None:
            yield ConfigError(f"{type_name(backend)} needs the package '{package}', which is not installed: pip install {package}.",
                              path=path)


def environment_problems(env_cfg: dict) -> Iterator[ConfigError]:
    """Yield errors for ``env_cfg.mp_cfg``: the start method of worker processes, and OpenCV's threads."""
    settings = env_cfg.get('mp_cfg') or {}
    for key, (kind, is_possible) in PROCESS_SETTINGS.items():
        if key in settings and not is_possible(settings[key]):
            remedy = did_you_mean(settings[key], START_METHODS) if key == 'mp_start_method' else ''
            yield ConfigError(f'is {settings[key]!r}; it should be {kind}.{remedy}', path=('env_cfg', 'mp_cfg', key))
    for key in settings:
        if key not in PROCESS_SETTINGS:
            yield ConfigError(f"there is no '{key}'.{did_you_mean(key, PROCESS_SETTINGS)} It has: {', '.join(PROCESS_SETTINGS)}.",
                              path=('env_cfg', 'mp_cfg'))


def hook_problems(hook: Any, path: tuple[str, ...]) -> Iterator[ConfigError]:
    if not isinstance(hook, dict):
        return
    args = {k: v for k, v in hook.items() if k != 'priority'}
    found = list(class_problems(args, HOOKS, path))
    if not found and hook.get('priority') is not None:
        try:
            get_priority(None if isinstance(hook['priority'], bool) else hook['priority'])
        except (TypeError, ValueError, KeyError):
            names = ', '.join(p.name for p in Priority)
            found.append(ConfigError(f"is {hook['priority']!r}; it should be a whole number in [0, 100] or one of {names}.",
                                     path=(*path, 'priority')))
    for key in INTERVALS if not found else ():
        if key in args and args[key] is not None and not is_whole(args[key], -1):
            found.append(ConfigError(f'is {args[key]!r}; it should be a whole number, or -1 for never.', path=(*path, key)))
    if not found and type_name(args) in BUILT_HOOKS:
        try:
            hook = HOOKS.build(args)
            if isinstance(hook, EMAHook):
                MODELS.build(hook.ema_cfg, model=nn.Identity())      # training builds it when it begins
        except ConfigError as error:
            error.path, error.cfg = (*path, *error.path), None               # the path is complete
            found.append(error)
        except (AssertionError, TypeError, ValueError) as error:             # for example a number given as text
            found.append(ConfigError(f'{type_name(args)}: {error}.', path=path))
    yield from found


def check_optimizer(optim_wrapper: dict) -> None:
    """Raise ConfigError for an unknown optimizer or argument, a learning rate that is not a number, or an unknown paramwise key."""
    optimizer, path = optim_wrapper.get('optimizer'), ('optim_wrapper', 'optimizer')
    if isinstance(optimizer, dict):
        for error in class_problems(optimizer, OPTIMIZERS, path, params=None):
            raise error
        for key in ('lr', 'weight_decay'):
            value = optimizer.get(key)
            if key in optimizer and not is_rate(value):
                raise ConfigError(f'is {value!r}; it should be a number, 0 or more.', path=(*path, key))
    constructor = optim_wrapper.get('constructor', 'DefaultOptimWrapperConstructor')
    paramwise = optim_wrapper.get('paramwise_cfg')
    if paramwise is not None and constructor == 'DefaultOptimWrapperConstructor':
        try:
            check_keys(paramwise, PARAMWISE, 'paramwise_cfg')
            for name, one in (paramwise.get('custom_keys') or {}).items():
                check_values(one, dict(lr_mult=float, decay_mult=float), ('custom_keys', str(name)))
        except ConfigError as error:
            error.path, error.cfg = ('optim_wrapper', 'paramwise_cfg', *error.path), None
            raise


def check_values(cfg: dict, kinds: dict[str, Any], path: tuple[str, ...]) -> None:
    """Raise ConfigError if a value of ``cfg`` does not have the type or range in ``kinds``; other keys are not checked."""
    for key in kinds.keys() & cfg.keys():
        fault = value_fault(cfg[key], kinds[key], key)
        if fault:
            raise ConfigError(str(fault), path=(*path, key, *fault.keys))


def is_rate(value: Any) -> bool:
    """Return whether ``value`` is a number >= 0, or a type that only the optimizer can check (a tensor, None)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return math.isfinite(value) and value >= 0
    return not isinstance(value, (bool, str, list, tuple, dict))
