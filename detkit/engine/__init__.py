"""Training and testing on mmengine's Runner, with what it needs from us."""
from __future__ import annotations

from typing import Any

import detkit.opencv  # noqa: F401  mmengine's runner imports cv2: this comes first, so that a broken one is told with its remedy
from detkit.mmdet_names import missing_attribute

__all__ = ['build_runner', 'evaluate', 'train']


def __getattr__(name: str) -> Any:
    """Import on use: the parts of this package are needed alone as well, and the runner is heavy."""
    if name in ('evaluate', 'train'):
        from detkit.engine import run
        return getattr(run, name)
    if name == 'build_runner':
        from detkit.engine.runner import build_runner
        return build_runner
    missing_attribute(__name__, name)
