"""MMDetection's API: ``from detkit.apis import init_detector, inference_detector``."""
from typing import NoReturn

from detkit.inference import DetInferencer, infer_files, inference_detector, init_detector
from detkit.mmdet_names import missing_attribute

__all__ = ['DetInferencer', 'infer_files', 'inference_detector', 'init_detector']


def __getattr__(name: str) -> NoReturn:
    missing_attribute(__name__, name)
