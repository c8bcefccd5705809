"""Inference from a config and a checkpoint, on one image, a folder or a video, in batches.

Names are imported on first use: listing the files of an input does not need torch.
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
