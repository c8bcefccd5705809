"""Check the other files named in a config: weights, and the annotations of evaluators."""
from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from detkit.doctor.findings import Report
from detkit.engine.checkpoint import read_meta
from detkit.engine.preflight import nearest_file
from detkit.files import find_data
from detkit.registry import ConfigError, join_keys

EVALUATOR_FILE_MISSING = 'file of the evaluator missing'


def examine_referenced_files(cfg: Config, splits: tuple[str, ...], report: Report) -> None:
    """Report files that are missing or cannot be read. URLs and names of published weights are not downloaded."""
    weights = list(weights_named(cfg.get('model'), ('model',)))
    for keys, source in [(('load_from',), cfg.load_from), *weights] if cfg.get('load_from') else weights:
        if '://' not in source:
            examine_weights(join_keys(keys), source, cfg.get('trusted_checkpoints', False), report)
    for split in splits:
        for key, file in evaluator_files(cfg, split):
            path = find_data(file)
            if '://' not in file and not path.exists():
                place = f'{key}: {path} does not exist.{nearest_file(path)}'
                report.add('fault', EVALUATOR_FILE_MISSING, split, place, 'Correct the path.')


def examine_weights(key: str, source: str, trusted: bool, report: Report) -> None:
    path = Path(os.path.expanduser(source))
    if not path.is_file():
        report.add('fault', 'checkpoint missing', '', f"{key}: there is no file '{path}'.{nearest_file(path)}", 'Correct the path.')
        return
    try:
        read_meta(path, trusted)
    except (ConfigError, OSError) as error:
        report.add('fault', 'checkpoint cannot be read', '', f'{key}: {error}', 'The message says what to do.')


def weights_named(part: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield config keys and source of all weights that the parts of a model load."""
    if isinstance(part, (list, tuple)):
        for i, one in enumerate(part):
            yield from weights_named(one, (*keys, f'[{i}]'))
    elif isinstance(part, dict):
        loads = str(part.get('type')).rpartition('.')[2] == 'Pretrained'
        for key, value in part.items():
            if isinstance(value, str) and (key in ('pretrained', 'checkpoint_path') or key == 'checkpoint' and loads):
                yield (*keys, key), value
            yield from weights_named(value, (*keys, str(key)))


def evaluator_files(cfg: Config, split: str) -> Iterator[tuple[str, str]]:
    """Yield config key and path of the annotations that the evaluators of ``split`` read."""
    described = cfg.get(f'{split}_evaluator') or []
    for i, one in enumerate(described if isinstance(described, (list, tuple)) else [described]):
        for name in ('ann_file', 'seg_prefix'):
            if isinstance(one, dict) and isinstance(one.get(name), str):
                yield f'{split}_evaluator{f"[{i}]" if isinstance(described, (list, tuple)) else ""}.{name}', one[name]
