"""Convert a user's config to one from which a Runner can be built on this machine."""
from __future__ import annotations

import copy
import itertools
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config

from detkit.config import without_yapf
from detkit.config_checks import check_keys
from detkit.engine.amp import settle_precision
from detkit.engine.checkpoint import latest_checkpoint, read_meta
from detkit.registry import OUR_SCOPES, ConfigError
from detkit.threads import late_import_note

GROUPS = {'training': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
          'validation': ('val_dataloader', 'val_cfg', 'val_evaluator'),
          'testing': ('test_dataloader', 'test_cfg', 'test_evaluator')}
ALWAYS = ('ReplayHook', 'NumClassCheckHook', 'CheckInvalidLossHook', 'ProgressHook')

_runs = itertools.count()


def prepare(cfg: Config) -> tuple[Config, list[str]]:
    """Return a copy of ``cfg`` that can run on this machine, and log lines about the decisions made.

    Raises:
            ConfigError: a section is missing or incomplete, a launcher has no processes, a resume has no checkpoint.
    """
    cfg = copy.deepcopy(cfg)
    without_yapf(cfg)
    cfg.default_scope = 'detkit'
    check_sections(cfg)
    said = []
    cfg.work_dir = str(work_dir_of(cfg))
    if isinstance(cfg.get('load_from'), os.PathLike):
        cfg.load_from = os.fspath(cfg.load_from)
    start_processes(cfg)
    said += settle_precision(cfg)
    said += settle_resume(cfg)
    settle_randomness(cfg)
    name_apart(cfg)
    add_hooks(cfg)
    late = None if torch.cuda.is_available() else late_import_note()
    return cfg, said + ([late] if late else [])


def work_dir_of(cfg: Config) -> Path:
    """Return ``cfg.work_dir``, or ``work_dirs/`` plus the config's name."""
    name = Path(cfg.filename).stem if cfg.filename else 'run'
    return Path(os.path.expanduser(cfg.get('work_dir') or os.path.join('work_dirs', name)))


def check_sections(cfg: Config) -> None:
    """Check that the keys are known and that each group of sections is complete."""
    check_keys(cfg)
    place = f' in {cfg.filename}' if cfg.filename else ''
    if not isinstance(cfg.get('model'), (dict, torch.nn.Module)):
        raise ConfigError(f"there is no 'model'{place}: nothing to build. Is it a whole config, or a base of one?")
    for purpose, names in GROUPS.items():
        if any(cfg.get(n) is not None for n in names):
            need(cfg, purpose)
    if cfg.get('param_scheduler') is not None and cfg.get('optim_wrapper') is None:
        raise ConfigError(f"there is a 'param_scheduler'{place} but no 'optim_wrapper' that it could steer.")


def need(cfg: Config, purpose: str) -> None:
    """Raise ConfigError unless ``cfg`` has all sections that ``purpose`` (a key of GROUPS) needs."""
    missing = [n for n in GROUPS[purpose] if cfg.get(n) is None]
    if missing:
        raise ConfigError(f"there is no '{missing[0]}'{f' in {cfg.filename}' if cfg.filename else ''}: {purpose} needs "
                          f"{', '.join(GROUPS[purpose])}, all of them.")


def start_processes(cfg: Config) -> None:
    """Join the process group of the launcher.

    Without CUDA the backend is gloo. mmengine 0.10.7 cannot start it: it calls ``torch.cuda.set_device`` and passes a device number to DDP.
    """
    launcher = cfg.get('launcher') or 'none'
    cfg.launcher = launcher
    if launcher == 'none':
        return
    if launcher == 'pytorch' and 'RANK' not in os.environ and not dist.is_initialized():
        raise ConfigError("launcher 'pytorch' is for processes that torchrun started: torchrun --nproc-per-node 2 tools/train.py CONFIG "
                          "--launcher pytorch. For one process leave it out.")
    for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):   # each process would use all cores; mmengine warns when it sets these
        os.environ.setdefault(variable, '1')
    if torch.cuda.is_available():
        return
    if launcher != 'pytorch':
        raise ConfigError(f"launcher '{launcher}' needs CUDA; without it use torchrun and launcher 'pytorch'.")
    if not dist.is_initialized():
        dist.init_process_group('gloo')
    wrapper = dict(cfg.get('model_wrapper_cfg') or dict(type='MMDistributedDataParallel', broadcast_buffers=False,
                                                        find_unused_parameters=cfg.get('find_unused_parameters', False)))
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)


def settle_resume(cfg: Config) -> list[str]:
    """Set the checkpoint that ``resume`` refers to, and use its seed, so that the resumed run continues the same random streams."""
    if not cfg.get('resume'):
        return []
    if cfg.get('load_from') is None:
        found = latest_checkpoint(cfg.work_dir)
        if found is None:
            cfg.resume = False
            return [f'nothing to resume in {cfg.work_dir}: starting from the beginning']
        cfg.load_from = str(found)
    seed = read_meta(cfg.load_from, cfg.get('trusted_checkpoints', False)).get('seed')
    randomness = dict(cfg.get('randomness') or {})
    said = [f'resuming from {cfg.load_from}']
    if seed is not None:
        if randomness.get('seed') not in (None, seed):
            said.append(f"seed {seed}, the checkpoint's, instead of {randomness['seed']}: the resumed run is the same run")
        cfg.randomness = dict(randomness, seed=seed)
    return said


def settle_randomness(cfg: Config) -> None:
    randomness = dict(cfg.get('randomness') or {})
    randomness.setdefault('seed', None)
    if randomness.get('deterministic'):
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')   # cuBLAS is not deterministic without it
    cfg.randomness = randomness


def name_apart(cfg: Config) -> None:
    """Give each run its own names of logger, message hub and visualizer.

    mmengine keeps these objects by name for the whole process, so a second run in a notebook would write into the first run's folder.
    """
    number = next(_runs)
    stem = cfg.get('experiment_name') or (Path(cfg.filename).stem if cfg.filename else 'run')
    cfg.experiment_name = f'{stem}-{number}' if number else stem
    visualizer = cfg.get('visualizer')
    if isinstance(visualizer, dict) and number:
        visualizer['name'] = f"{visualizer.get('name', 'visualizer')}-{number}"


def add_hooks(cfg: Config) -> None:
    """Add the hooks that every run needs, unless the config has a hook of the same class."""
    hooks = list(cfg.get('custom_hooks') or [])
    named = {kind(h) for h in [*hooks, *(cfg.get('default_hooks') or {}).values()]}
    for name in ALWAYS:
        if name not in named:
            hooks.append(dict(type=name, interval=1) if name == 'CheckInvalidLossHook' else dict(type=name))
    cfg.custom_hooks = hooks


def kind(hook: Any) -> str:
    name = hook.get('type') if isinstance(hook, dict) else type(hook)
    name = name if isinstance(name, str) else getattr(name, '__name__', '')
    scope, _, rest = name.partition('.')
    return rest if scope in OUR_SCOPES and rest else name
