"""The calls that MMDetection users know: ``from detkit.apis import init_detector, inference_detector``."""
from detkit.inference import DetInferencer, infer_files, inference_detector, init_detector

__all__ = ['DetInferencer', 'infer_files', 'inference_detector', 'init_detector']
