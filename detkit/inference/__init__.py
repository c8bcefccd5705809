"""From a config and a checkpoint to objects in images: one image, a folder, a video, a whole batch at a time.

Names are imported when they are first asked for: to find out which files an INPUT means takes no torch.
"""
from importlib import import_module
from typing import Any

PLACES = {'init_detector': 'detector', 'inference_detector': 'detector', 'DetInferencer': 'inferencer',
          'load_inferencer': 'inferencer', 'infer_files': 'files', 'list_sources': 'sources'}
__all__ = [*PLACES]


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module 'detkit.inference' has no attribute '{name}'")
    return getattr(import_module(f'{__name__}.{PLACES[name]}'), name)
