"""Checkpoints: written as plain values, read without running code, loaded with one message about keys that do not match."""
from __future__ import annotations

import os
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import is_model_wrapper
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from detkit import mmengine_patches
from detkit.engine.sources import locate
from detkit.engine.unpickle import StandIn, StoredHistory, UnsafeFile, load_as_data, refuse_programs
from detkit.files import atomic_path
from detkit.registry import ConfigError, did_you_mean

LAST = 'last_checkpoint'       # file with the name of the newest checkpoint, relative to its own folder
INTERRUPTED = 'interrupted.pth'
KEPT_VALUES = 1000             # of each logged scalar, for averages that span a resume; a limit, because files would grow without end


# ---------------------------------------------------------------------------------------------------------- reading
def load_checkpoint(source: str | Path, trusted: bool = False, map_location: Any = 'cpu') -> dict:
    """Return the dict in a checkpoint: ``state_dict``, and ``meta``, ``optimizer``, ``message_hub`` and others if present.

    ``source``: a path (``.pth``, ``.safetensors``), an http(s) or file URL, ``torchvision://resnet50``, ``open-mmlab://...``.
    No code in the file is executed; objects of unknown classes are left out. ``trusted``: use the standard unpickler, which
    executes code in the file; only for your own files that need it.

    Raises:
        ConfigError: the file is missing, the download fails, or the file is not a checkpoint or would run code.
    """
    path = locate(source)
    if not path.is_file():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob('*') if p.is_file()]) if path.parent.is_dir() else ''
        raise ConfigError(f"there is no checkpoint '{path}'.{folder_hint(path) or near}")
    content = read(path, trusted, map_location)
    if not isinstance(content, Mapping):
        raise ConfigError(f"'{path}' holds a {type(content).__name__}, not a checkpoint (a dict of tensors).")
    return dict(content) if 'state_dict' in content else dict(state_dict=weights_in(content, path))


def read(path: Path, trusted: bool, map_location: Any) -> Any:
    try:
        if path.suffix == '.safetensors':
            return read_safetensors(path, map_location)
        if trusted:
            return torch.load(path, map_location=map_location, weights_only=False)
        refuse_programs(path)
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError:                      # the file holds more than tensors and plain values
            return without_stand_ins(load_as_data(path, map_location))
    except UnsafeFile as error:
        raise ConfigError(f"'{path}' {error}. Nothing of it was loaded.") from error
    except ConfigError:
        raise
    except Exception as error:   # zip, pickle and torch raise many types of errors for a damaged file
        raise ConfigError(f"'{path}' cannot be read as a checkpoint ({type(error).__name__}: {first_line(error)}). "
                          f'It may be cut short: {path.stat().st_size} bytes.') from error


def read_safetensors(path: Path, map_location: Any) -> dict:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ConfigError(f"'{path}' is a safetensors file: pip install safetensors") from error
    return load_file(str(path), device=str(map_location or 'cpu'))


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [''])[0]


def weights_in(content: Mapping, path: Path) -> dict:
    """Return the weights in a file without ``state_dict``: under a key that other projects use, or the file's dict itself."""
    for name in ('model', 'module', 'weights', 'net'):
        if isinstance(content.get(name), Mapping) and any(isinstance(v, Tensor) for v in content[name].values()):
            return content[name]
    if not any(isinstance(v, Tensor) for v in content.values()):
        raise ConfigError(f"'{path}' holds no weights (keys: {', '.join(map(str, list(content)[:8]))}).")
    return content


def without_stand_ins(value: Any) -> Any:
    """Return ``value`` with histories restored, and without objects that could not be read as data."""
    if isinstance(value, StoredHistory):
        return value.history()
    if isinstance(value, (OrderedDict, dict)):
        kept = type(value)() if type(value) in (OrderedDict, dict) else {}
        kept.update((k, without_stand_ins(v)) for k, v in value.items() if not left_out(k) and not left_out(v))
        if hasattr(value, '_metadata'):
            kept._metadata = value._metadata
        return kept
    if type(value) in (list, tuple):
        return type(value)(without_stand_ins(v) for v in value if not left_out(v))
    return value


def left_out(value: Any) -> bool:
    return (isinstance(value, StandIn) and not isinstance(value, StoredHistory)) or isinstance(value, type)


def read_plain_values(source: str | Path, trusted: bool = False) -> dict:
    """Return the content of a checkpoint to read ``meta`` and ``message_hub``; tensors are memory-mapped if the file allows it."""
    try:
        return dict(torch.load(source, map_location='cpu', weights_only=True, mmap=True))
    except Exception:   # load_checkpoint handles other formats and reports errors
        return load_checkpoint(source, trusted)


def read_meta(source: str | Path, trusted: bool = False) -> dict:
    """Return the ``meta`` of a checkpoint."""
    return dict(read_plain_values(source, trusted).get('meta') or {})


def latest_checkpoint(work_dir: str | Path) -> Path | None:
    """Return the newest checkpoint of the run in ``work_dir``, or None. Also works after the folder was moved or copied."""
    note = Path(work_dir) / LAST
    if not note.is_file():
        return None
    name = Path(note.read_text(encoding='utf-8').strip())
    candidates = [Path(work_dir) / name.name, Path(work_dir) / name]
    return next((c for c in candidates if c.is_file()), candidates[0])


def folder_hint(path: Path) -> str:
    """Return a hint that names a checkpoint inside ``path`` if ``path`` is a folder, else ''."""
    if not path.is_dir():
        return ''
    last = latest_checkpoint(path) or max(path.glob('*.pth'), key=lambda p: p.stat().st_mtime, default=None)
    return f" It is a folder. Its newest checkpoint is '{last}'." if last else ' It is a folder, without a .pth file in it.'


# ---------------------------------------------------------------------------------------------------------- writing
def write_checkpoint(checkpoint: dict, path: str | Path) -> None:
    """Write ``checkpoint`` as plain values to ``path``, atomically.

    Raises:
        ConfigError: ``torch.load(weights_only=True)`` could not read an object in it; the message has its key.
    """
    content = plain(checkpoint, '')
    with atomic_path(path) as temporary, open(temporary, 'wb') as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def plain(value: Any, where: str) -> Any:
    """Convert ``value`` to tensors, numbers, text and containers of them, which can be read without trusting the file."""
    if isinstance(value, torch.nn.Parameter):
        return value.detach()
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, Tensor, torch.Size, torch.dtype, torch.device)) \
            and not isinstance(value, np.generic):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy()) if value.dtype.kind in 'biuf' else plain(value.tolist(), where)
    if isinstance(value, HistoryBuffer):
        values, counts = (part[-KEPT_VALUES:].tolist() for part in value.data)
        return dict(v=values, n=counts, m=value.max_length)
    if isinstance(value, Mapping):
        made = Counter() if isinstance(value, Counter) else OrderedDict() if isinstance(value, OrderedDict) else {}
        made.update({plain(k, where): plain(v, f'{where}[{k!r}]') for k, v in value.items()})
        return made
    if isinstance(value, (list, tuple, set, frozenset)) or type(value).__name__ == 'deque':
        kind = {tuple: tuple, set: set, frozenset: frozenset}.get(type(value), list)
        return kind(plain(v, f'{where}[{i}]') for i, v in enumerate(value))
    if isinstance(value, os.PathLike):
        return str(value)
    raise ConfigError(f'checkpoint{where} is a {type(value).__name__}. A checkpoint holds tensors, numbers, text and lists or dicts of '
                      f'them, so that it can be read without running code; let the hook that adds it store those.')


def restore_histories(checkpoint: dict) -> None:
    """Convert the plain histories of the message hub back to mmengine's buffers, in place."""
    scalars = (checkpoint.get('message_hub') or {}).get('log_scalars', {})
    for name, history in scalars.items():
        if isinstance(history, Mapping):
            scalars[name] = HistoryBuffer(history['v'], history['n'], history['m'])


# ---------------------------------------------------------------------------------------------------------- weights
@dataclass(frozen=True)
class LoadReport:
    """Which keys of a checkpoint match a model."""

    matched: int                                       # number of loaded tensors
    total: int                                         # number of tensors of the model, without num_batches_tracked
    missing: tuple[str, ...] = ()                      # keys of the model that are not in the file
    unexpected: tuple[str, ...] = ()                   # keys of the file that are not in the model
    mismatched: tuple[tuple[str, tuple, tuple], ...] = ()   # key, shape in the file, shape in the model
    remedy: str = ''

    @property
    def complete(self) -> bool:
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        parts = [f'{self.matched} of the {self.total} tensors of the model were in it']
        if self.mismatched:
            key, theirs, ours = self.mismatched[0]
            parts.append(f'{len(self.mismatched)} had another shape (first: {key}, {theirs} there, {ours} here)')
        for keys, what in ((self.missing, 'missing'), (self.unexpected, 'not wanted')):
            if keys:
                parts.append(f'{len(keys)} {what} (first: {keys[0]})')
        return '; '.join(parts) + '.' + (f' {self.remedy}' if self.remedy else '')


def load_weights(model: nn.Module, source: str | Path | Mapping, strict: bool = False, trusted: bool = False,
                 revise_keys: list[tuple[str, str]] | None = None, name: str = 'the checkpoint') -> LoadReport:
    """Load the matching weights of ``source`` (path, URL or content of a checkpoint) into ``model``.

    The prefix ``module.`` of keys is removed; ``revise_keys``, (pattern, replacement) pairs, are used instead of that. The weights are
    those under ``state_dict``: for runs with EMA, the averaged ones. ``name``: name in messages of a checkpoint that is given as content.

    Raises:
        ConfigError: no key matches, or, with ``strict``, a part of the model gets no weights.
    """
    content = source if isinstance(source, Mapping) else load_checkpoint(source, trusted)
    weights = content.get('state_dict', content)
    for pattern, replacement in revise_keys or [(r'^module\.', '')]:
        weights = {re.sub(pattern, replacement, k): v for k, v in weights.items()}
    model = model.module if is_model_wrapper(model) else model
    report = load_matching(model, weights)
    name = name if isinstance(source, Mapping) else f"'{source}'"
    if not report.matched or (strict and not report.complete):
        raise ConfigError(f'{name} does not fit this model ({type(model).__name__}): {report}')
    return report


def load_matching(model: nn.Module, weights: Mapping[str, Tensor]) -> LoadReport:
    """Load the tensors of ``weights`` that match the model in key and shape. The modules' own loading hooks run."""
    own = model.state_dict()
    mismatched = [(k, tuple(v.shape), tuple(own[k].shape)) for k, v in weights.items()
                  if k in own and isinstance(v, Tensor) and isinstance(own[k], Tensor) and v.shape != own[k].shape]
    wrong = {k for k, *_ in mismatched}
    result = model.load_state_dict({k: v for k, v in weights.items() if k not in wrong}, strict=False)
    missing = [k for k in result.missing_keys if not k.endswith('num_batches_tracked') and k not in wrong]
    counted = [k for k in own if not k.endswith('num_batches_tracked')]
    matched = len(counted) - len(missing) - sum(not k.endswith('num_batches_tracked') for k in wrong)
    return LoadReport(matched, len(counted), tuple(missing), tuple(result.unexpected_keys), tuple(mismatched),
                      advice(list(weights), own, mismatched) if missing or mismatched else '')


def advice(theirs: list[str], ours: Mapping[str, Any], mismatched: list) -> str:
    """Return what to do if the file is wrong, or is loaded into the wrong part of the model."""
    share = {prefix: sum(f'{prefix}{k}' in ours for k in theirs) for prefix in {f"{k.split('.')[0]}." for k in ours}}
    best = max(share, key=share.get, default='')
    if best and share[best] > len(theirs) / 2:
        return (f"Its keys lack the prefix '{best}': give it as init_cfg=dict(type='Pretrained', checkpoint=...) of model."
                f'{best.rstrip(".")}.')
    stripped = Counter(k.split('.')[0] for k in theirs if '.' in k and k.split('.', 1)[1] in ours)
    if stripped and stripped.most_common(1)[0][1] > len(ours) / 2:
        prefix = stripped.most_common(1)[0][0]
        return f"Its keys begin with '{prefix}.': load it with revise_keys=[(r'^{prefix}\\.', '')]."
    if mismatched and all('cls' in k or 'class' in k for k, *_ in mismatched):
        return 'Its classifier is for another number of classes: right for fine-tuning, wrong for testing.'
    return 'Is it the checkpoint of this config? print-config shows what a config builds.'


def report_loading(report: LoadReport, source: str) -> None:
    """Log one line about a loaded checkpoint; a warning if part of the model keeps its initial weights."""
    if get_rank() == 0:
        level = 20 if report.complete else 30
        print_log(f'loaded {source}: {report}' if not report.complete or report.unexpected
                  else f'loaded {source}: all {report.total} tensors', 'current', level)


# --------------------------------------------------------------------------------------------------- mmengine's own paths
def load_for_mmengine(filename: str, map_location: Any = None, **_: Any) -> dict:
    return load_checkpoint(filename, map_location=map_location or 'cpu')


def fill_for_mmengine(module: nn.Module, state_dict: Mapping[str, Tensor], strict: bool = False, logger: Any = None) -> None:
    """Replace ``mmengine.runner.checkpoint.load_state_dict``: log one line about keys that do not match; mmengine prints every key."""
    report_loading(load_weights(module, dict(state_dict=state_dict), strict, revise_keys=[]), f'weights for {type(module).__name__}')


def guard_mmengine() -> None:
    """Make the loading in mmengine 0.10.7, mainly ``init_cfg=dict(type='Pretrained')``, use ``load_checkpoint``.

    mmengine's loaders use the standard unpickler, or fail on torch 2.6 and later, which refuses what mmengine stores.
    """
    prefixes = ['', 'http://', 'https://', 'file://', 'torchvision://', 'modelzoo://', 'open-mmlab://', 'openmmlab://', 'mmcls://']
    CheckpointLoader.register_scheme(prefixes, load_for_mmengine, force=True)
    mmengine_patches.replace({f'{mmengine_patches.CHECKPOINT}.load_state_dict': fill_for_mmengine})


guard_mmengine()
