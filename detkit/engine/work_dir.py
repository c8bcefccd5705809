"""One training per work dir: who uses it, which files an earlier run left, and whether that run is finished."""
from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config

from detkit.engine.checkpoint import INTERRUPTED, LAST, latest_checkpoint, read_plain_values
from detkit.engine.hooks.checkpoint import EVALUATED
from detkit.engine.hooks.early_stopping import EARLY_STOPPING, has_stopped
from detkit.engine.prepare import kind, work_dir_of
from detkit.locks import Busy, file_lock
from detkit.registry import ConfigError

LOCK = 'run.lock'
STEP = re.compile(r'(best_.+_)?(epoch|iter)_\d+(-published)?\.pth')       # default file names of CheckpointHook
UNFINISHED = re.compile(r'\.(best_.*|epoch_\d+|iter_\d+|interrupted|last_checkpoint)\..{8}(\.pth)?')   # left by a killed process
RANK_VARIABLES = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID', 'mpi': 'OMPI_COMM_WORLD_RANK'}


def checkpoint_folder(cfg: Config) -> Path:
    """Return the folder of the checkpoints of ``cfg``: the work dir, or one with its name in the ``out_dir`` of CheckpointHook."""
    work_dir = work_dir_of(cfg)
    out_dir = next((h['out_dir'] for h in hooks_of(cfg, 'CheckpointHook') if h.get('out_dir')), None)
    return Path(out_dir).expanduser() / work_dir.name if out_dir else work_dir


def hooks_of(cfg: Config, name: str) -> list[dict]:
    """Return the config's hooks of the class ``name``."""
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    return [h for h in hooks if isinstance(h, dict) and kind(h) == name]


def run_files(cfg: Config) -> list[Path]:
    """Return the files of an earlier run in the work dir: checkpoints, and the file that names the newest one."""
    work_dir, folder = work_dir_of(cfg), checkpoint_folder(cfg)
    last = latest_checkpoint(work_dir)
    found = [work_dir / LAST, work_dir / INTERRUPTED, *([] if last is None else [last])]
    found += [p for p in (folder.iterdir() if folder.is_dir() else ()) if STEP.fullmatch(p.name)]
    return sorted({Path(os.path.abspath(p)) for p in found if p.is_file()})


@contextmanager
def claimed_work_dir(cfg: Config, fresh: bool) -> Iterator[list[Path]]:
    """Hold the lock of the work dir during a training; yield the files of an earlier run that may be removed (``fresh``).

    In distributed training, only rank 0 takes the lock.

    Raises:
            ConfigError: another training uses the folder, or it holds a run and neither a resume nor ``fresh`` is requested.
    """
    if int(os.environ.get(RANK_VARIABLES.get(cfg.get('launcher') or 'none', ''), '0')):
        yield []
        return
    work_dir = work_dir_of(cfg)
    new_folders = [folder for folder in (work_dir, *work_dir.parents) if not folder.exists()]
    work_dir.mkdir(parents=True, exist_ok=True)
    try:
        with file_lock(work_dir / LOCK):
            yield files_to_remove(cfg, fresh)
    except Busy as busy:
        raise ConfigError(f'{work_dir} is in use: {busy.owner} trains there. Wait for it to end, or choose another --work-dir{busy.remedy}.'
                          ) from None
    finally:
        for folder in new_folders:                     # remove the new folders of a run that is refused
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def files_to_remove(cfg: Config, fresh: bool) -> list[Path]:
    work_dir = work_dir_of(cfg)
    resumed = cfg.get('load_from') if cfg.get('resume') else None
    if cfg.get('resume') and resumed is None:
        if fresh:
            raise ConfigError('--resume goes on with a run and --fresh removes it: choose one of them.')
        files = run_files(cfg)
        if files and latest_checkpoint(work_dir) is None:
            newest = max(files, key=lambda path: path.stat().st_mtime)
            raise ConfigError(f'{work_dir} holds {len(files)} checkpoints, but no note {LAST} that names the newest. Name it: '
                              f'--resume {newest}; or start again with --fresh.')
        return unfinished_files(cfg)
    files = run_files(cfg)
    if resumed is not None and Path(os.path.abspath(resumed)).parent in {f.parent for f in files}:
        files = []
    if files and not fresh:
        raise ConfigError(f'{work_dir} holds a run already ({description(files, work_dir)}). Choose: --resume to go on with it, --fresh to '
                          f'remove its {len(files)} checkpoint files and start again, or another folder by --work-dir.')
    used = [f for f in files if str(f) in {os.path.abspath(text) for text in texts_in(cfg._cfg_dict.to_dict())}]
    if used:
        raise ConfigError(f'--fresh would remove {used[0]}, from which the config starts. Choose another folder by --work-dir.')
    return files + unfinished_files(cfg)


def unfinished_files(cfg: Config) -> list[Path]:
    """Return temporary checkpoint files of a killed process. The lock is held, so no other process is writing them."""
    folders = {work_dir_of(cfg), checkpoint_folder(cfg)}
    return sorted(p for folder in folders if folder.is_dir() for p in folder.iterdir() if UNFINISHED.fullmatch(p.name))


def description(files: list[Path], work_dir: Path) -> str:
    last = latest_checkpoint(work_dir)
    return f'newest checkpoint {last.name}' if last is not None else f'{files[0].name}' + (', ...' if len(files) > 1 else '')


def texts_in(value: Any) -> Iterator[str]:
    """Yield all strings in a config's dict."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from texts_in(inner)


def finished_message(cfg: Config) -> str | None:
    """Return why the run that ``cfg`` resumes is finished and how to continue it. None: it is not finished, or nothing is resumed."""
    source = cfg.get('load_from') or latest_checkpoint(work_dir_of(cfg)) if cfg.get('resume') else None
    if source is None or not Path(source).is_file():
        return None
    content = read_plain_values(source, cfg.get('trusted_checkpoints', False))
    meta, info = content.get('meta') or {}, (content.get('message_hub') or {}).get('runtime_info') or {}
    for unit, key in (('epoch', 'max_epochs'), ('iter', 'max_iters')):
        total, done = (cfg.get('train_cfg') or {}).get(key), meta.get(unit)
        if total is None or done is None:
            continue
        place = f"{'epoch' if unit == 'epoch' else 'iteration'} {done} of {total}"
        is_evaluated = cfg.get('val_dataloader') is None or done < cfg.train_cfg.get('val_begin', 1) \
            or info.get(EVALUATED, meta['iter']) >= meta['iter']
        if done >= total and is_evaluated:
            return f'the run in {Path(source).parent} is finished: {place}. To train on, raise {key}.'
        reasons = [has_stopped(info.get(EARLY_STOPPING), hook) for hook in hooks_of(cfg, 'EarlyStoppingHook')] if is_evaluated else []
        if any(reasons):
            return (f'the run in {Path(source).parent} is finished: it stopped early after {place}, because {next(filter(None, reasons))}. '
                    f"To train on, raise EarlyStoppingHook's patience or remove the hook.")
    return None
