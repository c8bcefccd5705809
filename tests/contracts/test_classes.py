"""Composition before inheritance: our own classes are two deep at the most."""
from __future__ import annotations

import importlib
import inspect
import pkgutil

import detkit

DEEPEST = 2


def own_depth(cls: type) -> int:
    """How many of detkit's own classes stand one above the other, ``cls`` included."""
    return 1 + max((own_depth(base) for base in cls.__bases__ if base.__module__.startswith('detkit.')), default=0)


def own_classes() -> list[type]:
    found = {}
    for info in pkgutil.walk_packages(detkit.__path__, 'detkit.'):
        module = importlib.import_module(info.name)
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__.startswith('detkit.'):
                found[f'{cls.__module__}.{cls.__qualname__}'] = cls
    return list(found.values())


def test_depth_counts_our_own_classes_only():
    first = type('First', (dict,), {'__module__': 'detkit.x'})
    second = type('Second', (first,), {'__module__': 'detkit.x'})
    third = type('Third', (second, dict), {'__module__': 'detkit.x'})
    assert [own_depth(c) for c in (first, second, third)] == [1, 2, 3]


def test_no_class_is_more_than_two_deep():
    classes = own_classes()
    assert len(classes) > 50   # the walk sees the package
    assert {cls.__qualname__: own_depth(cls) for cls in classes if own_depth(cls) > DEEPEST} == {}
