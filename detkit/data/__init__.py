"""Data sets, transforms, caches; ``doctor``, which looks at all of them, stands on a higher floor and is only named here."""
from typing import Any

from detkit.mmdet_names import missing_attribute


def __getattr__(name: str) -> Any:
    if name == 'doctor':
        from importlib import import_module
        return import_module('detkit.doctor').doctor
    missing_attribute(__name__, name)
