"""Datasets, transforms and caches. ``doctor`` checks all of them; it belongs to a higher layer and is only named here."""
from typing import Any

from detkit.mmdet_names import missing_attribute


def __getattr__(name: str) -> Any:
    if name == 'doctor':
        from importlib import import_module
        return import_module('detkit.doctor').doctor
    missing_attribute(__name__, name)
