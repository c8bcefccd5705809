"""Load the original image of a sample, before resizing, as its dataset reads it: boxes in original coordinates are drawn on it."""
from __future__ import annotations

from typing import Any

import numpy as np

from detkit.opencv import cv2
from detkit.registry import ConfigError


def load_original(dataset: Any, index: int) -> np.ndarray:
    """Load image ``index`` of ``dataset`` with its pipeline's loader, uint8 BGR (height, width, 3).

    16-bit images, DICOM windows and EXIF orientation are handled as for the detector.

    Raises:
        UnreadableImage: the file cannot be read.
        ConfigError: no transform of the pipeline loads an image.
    """
    results = dict(dataset.get_data_info(index))
    for transform in pipeline_of(dataset, index).transforms:
        if getattr(transform, 'random', True):
            results['rng'] = np.random.default_rng(0)
        results = transform(results)
        if results is None:                       # a loader with ignore_empty=True
            raise ConfigError(f'{dataset.get_data_info(index).get("img_path")}: cannot read this image to draw on it.')
        if 'img' in results:
            return as_bgr(results['img'])
    raise ConfigError('no transform of the pipeline loads an image (LoadImageFromFile, LoadDICOM), so there is nothing to draw on.')


def pipeline_of(dataset: Any, index: int) -> Any:
    """Return the innermost pipeline of sample ``index``, inside any wrappers."""
    while not hasattr(dataset, 'pipeline'):
        if hasattr(dataset, '_get_ori_dataset_idx'):
            place = dataset._get_ori_dataset_idx(index)
            part, index = place if isinstance(place, tuple) else (None, place)
            dataset = dataset.dataset if part is None else dataset.datasets[part]
        else:
            dataset = dataset.dataset
    return dataset.pipeline


def as_bgr(image: np.ndarray) -> np.ndarray:
    """Convert a loaded image (one, three or more channels; uint8, 16 bits, or float 0 to 255) to uint8 BGR for drawing.

    Float images with values outside 0 to 255, or with all values at most 1, are stretched from their own range.
    """
    if image.dtype == np.uint16:
        image = np.rint(image / 257.).astype(np.uint8)
    elif image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        low, high = (low, high) if low < 0 or high > 255 else (0., 1.) if 0 < high <= 1 else (0., 255.)
        image = np.rint((image.astype(np.float32) - low) * (255 / max(high - low, 1e-6))).clip(0, 255).astype(np.uint8)
    if image.ndim == 2 or image.shape[2] < 3:
        return cv2.cvtColor(np.ascontiguousarray(image if image.ndim == 2 else image[..., 0]), cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(image[..., :3])
