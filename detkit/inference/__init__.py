"""From a config and a checkpoint to objects in images: one image, a folder, a video, a whole batch at a time."""
from detkit.inference.detector import inference_detector, init_detector
from detkit.inference.files import infer_files
from detkit.inference.inferencer import DetInferencer
from detkit.inference.sources import list_sources

__all__ = ['DetInferencer', 'infer_files', 'inference_detector', 'init_detector', 'list_sources']
