"""Training and testing with mmengine's Runner."""
from __future__ import annotations

from typing import Any

import detkit.opencv  # noqa: F401  before mmengine's runner, which imports cv2: a broken cv2 then gives an error with its remedy
from detkit.mmdet_names import missing_attribute

__all__ = ['build_runner', 'evaluate', 'train']


def __getattr__(name: str) -> Any:
    """Import on first use: the runner takes long to import, and other modules of this package do not need it."""
    if name in ('evaluate', 'train'):
        from detkit.engine import run
        return getattr(run, name)
    if name == 'build_runner':
        from detkit.engine.runner import build_runner
        return build_runner
    missing_attribute(__name__, name)
