"""The variables of detkit's shipped recipes: a config file that sets one changes everything that the recipes compute from it.

docs/configs.md lists the effect of each.
"""
from __future__ import annotations

import os
from typing import Any

from detkit.registry import ConfigError

WHAT = dict(file='a file, relative to data_root', folder='a folder',
            names="a list of names, as in ('cat', 'dog'); one class: ('cat',); each name once",
            size='(width, height) in pixels, as in (640, 480)', count='a whole number above 0', number='a number above 0',
            flag='True or False', dict='a dict, as in dict(classes=(...))')
VARIABLES = {name: kind for kind, names in dict(
    file='train_ann_file val_ann_file test_ann_file val_instances test_instances',
    folder='data_root train_images val_images test_images train_segments val_segments test_segments',
    names='classes stuff_classes',
    dict='metainfo',
    size='image_size test_size',
    count='num_classes batch_size val_batch_size max_epochs max_iters val_interval warmup_iters',
    workers='num_workers',
    number='base_lr',
    flag='keep_ratio').items() for name in names.split()}
WHAT['workers'] = 'a whole number, 0 or more'


def is_valid(kind: str, value: Any) -> bool:
    """Return whether ``value`` is of ``kind``, a key of WHAT."""
    is_list, is_whole = isinstance(value, (list, tuple)), isinstance(value, int) and not isinstance(value, bool)
    match kind:
        case 'file' | 'folder':
            return isinstance(value, str)
        case 'names':
            return is_list and len(value) > 0 and all(isinstance(name, str) and name for name in value) and len(set(value)) == len(value)
        case 'size':
            return is_list and len(value) == 2 and all(is_valid('count', side) for side in value)
        case 'count':
            return is_whole and value > 0
        case 'workers':
            return is_whole and value >= 0
        case 'number':
            return (is_whole or isinstance(value, float)) and value > 0
        case 'flag':
            return isinstance(value, bool)
    return isinstance(value, dict)


def check_variable(name: str, value: Any, place: str) -> Any:
    """Return ``value`` in the form that recipes use for the variable ``name``: tuples for lists, str for paths, ``~`` expanded.

    ``place``: start of the message, such as ``my.py:3``.

    Raises:
        ConfigError: wrong type: ``max_epochs='ten'``, ``classes='cat'``, ``image_size=640``.
    """
    kind = VARIABLES[name]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not is_valid(kind, value) and not (kind == 'names' and value is None):
        raise ConfigError(f'{place}: {name}={value!r} should be {WHAT[kind]}.')
    if kind in ('file', 'folder'):
        return os.path.expanduser(value)
    return tuple(value) if kind in ('names', 'size') and value is not None else value


def with_derived(settings: dict[str, Any], place: str) -> dict[str, Any]:
    """Return ``settings`` of variables with derived variables added: the number of classes from their names.

    Raises:
        ConfigError: see ``check_variable``.
    """
    settings = {name: check_variable(name, value, place) for name, value in settings.items()}
    named = (settings.get('metainfo') or {}).get('classes')
    if named and 'classes' not in settings:
        settings['classes'] = check_variable('classes', named, place)
    if settings.get('classes') and 'num_classes' not in settings:
        settings['num_classes'] = len(settings['classes'])
    return settings
