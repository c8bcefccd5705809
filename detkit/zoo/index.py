"""``model_zoo.json``: how each model was trained, on which dataset, with which result, and the licence of its weights.

The format is described in docs/model_zoo.md. An invalid file is rejected; the error has the entry and the key.
"""
from __future__ import annotations

import json
import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from detkit.registry import ConfigError, did_you_mean

SCHEMA = 1
TASKS = ('detection', 'instance segmentation', 'panoptic segmentation')


@dataclass(frozen=True)
class Weights:
    url: str | None = None          # https://...; None: not published, run ``train`` to make them
    sha256: str | None = None       # SHA-256 of the file at ``url``, 64 hex digits; required with a url
    train: str = ''                 # command that trains the model


@dataclass(frozen=True)
class Entry:
    name: str                       # unique name, argument of ``detkit infer``
    config: str                     # path below configs/
    task: str                       # one of TASKS
    dataset: str                    # dataset of training and evaluation
    metrics: dict[str, float | None]   # on the dataset's validation split, in [0, 1]; None: not measured yet
    licence: str                    # of the weights, an SPDX identifier; depends on the licences of code and data
    weights: Weights
    notes: str = ''


def index_file() -> Path:
    """Return the path of ``model_zoo.json`` in this checkout, or of the copy in an installed package."""
    inside = Path(__file__).resolve().parent / 'model_zoo.json'
    return inside if inside.is_file() else inside.parent.parent.parent / 'model_zoo.json'


def load_index(path: str | Path | None = None) -> list[Entry]:
    """Return all entries in the file's order.

    Raises:
        ConfigError: the file is missing, is not JSON, has another schema, an unknown or missing key, or an invalid value.
    """
    path = Path(path) if path is not None else index_file()
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise ConfigError(f'{path}: {error.strerror}.') from error
    except ValueError as error:
        raise ConfigError(f'{path} is not JSON: {error}.') from error
    if not isinstance(content, dict) or content.get('schema') != SCHEMA or not isinstance(content.get('models'), list):
        raise ConfigError(f"{path}: should hold {{'schema': {SCHEMA}, 'models': [...]}}; see docs/model_zoo.md.")
    entries = [as_entry(item, f'{path}: models[{i}]') for i, item in enumerate(content['models'])]
    names = [e.name for e in entries]
    doubled = sorted({n for n in names if names.count(n) > 1})
    if doubled:
        raise ConfigError(f"{path}: the name '{doubled[0]}' stands for several models.")
    return entries


def find_model(name: str, path: str | Path | None = None) -> Entry:
    """Return the entry with this name.

    Raises:
        ConfigError: there is none; the message has similar names.
    """
    entries = load_index(path)
    for entry in entries:
        if entry.name == name:
            return entry
    names = [e.name for e in entries]
    raise ConfigError(f"the model zoo has no '{name}'.{did_you_mean(name, names)} It has: {', '.join(names) or 'nothing'}.")


def as_entry(item: Any, where: str) -> Entry:
    entry = Entry(**{**fitting(item, Entry, where), 'weights': as_weights(item.get('weights'), f'{where}.weights')})
    texts = ('name', 'config', 'task', 'dataset', 'licence')
    empty = [key for key in texts if not isinstance(getattr(entry, key), str) or not getattr(entry, key)]
    if empty:
        raise ConfigError(f"{where}: '{empty[0]}' should be a text, not {getattr(entry, empty[0])!r}.")
    if entry.task not in TASKS:
        raise ConfigError(f"{where}: the task '{entry.task}' is none of {', '.join(TASKS)}.")
    if not isinstance(entry.metrics, dict):
        raise ConfigError(f"{where}: 'metrics' should map a metric to its value, not be {entry.metrics!r}.")
    for key, value in entry.metrics.items():
        if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 1):
            raise ConfigError(f"{where}: metrics['{key}'] is {value!r}; a metric lies in [0, 1], or is null while not measured.")
    return entry


def as_weights(item: Any, where: str) -> Weights:
    weights = Weights(**fitting(item, Weights, where))
    if weights.url is None:
        if not weights.train:
            raise ConfigError(f"{where}: without a 'url' it needs 'train', the command that makes the weights.")
        return weights
    if not weights.url.startswith('https://'):
        raise ConfigError(f"{where}: the url '{weights.url}' should start with https://.")
    if not re.fullmatch('[0-9a-f]{64}', weights.sha256 or ''):
        raise ConfigError(f"{where}: 'sha256' should be the file's 64 hex digits, not {weights.sha256!r}.")
    return weights


def fitting(item: Any, kind: type, where: str) -> dict[str, Any]:
    """Return ``item`` if its keys are the fields of the dataclass ``kind``; raise ConfigError otherwise."""
    if not isinstance(item, dict):
        raise ConfigError(f'{where}: should be an object, not {item!r}.')
    known = {f.name: f for f in fields(kind)}
    unknown = [key for key in item if key not in known]
    if unknown:
        raise ConfigError(f"{where}: unknown key '{unknown[0]}'.{did_you_mean(unknown[0], known)}")
    missing = [name for name, f in known.items() if f.default is MISSING and name not in item]
    if missing:
        raise ConfigError(f"{where}: has no '{missing[0]}'.")
    return item
