"""Data structures passed between dataset, model and metric, and the conventions of detkit.

- Boxes: float32 ``(n, 4)``, corners ``x1, y1, x2, y2`` in pixels. Coordinates refer to the lines of the pixel grid, not to pixel centres: a
  box that covers exactly the first pixel is ``0, 0, 1, 1``; width is ``x2 - x1``; ``x2 <= image width``.
- Labels: int64 ``(n,)`` in ``[0, num_classes)``; background is ``num_classes`` inside heads. An image without objects has zero rows.
- Sizes and shapes are ``(height, width)``; ``scale`` and ``scale_factor`` in configs and metainfo are ``(width, height)``.
- Images: uint8, BGR, ``(H, W, 3)`` in a pipeline, ``(3, H, W)`` once packed.
- Masks: one bitmap or list of polygons per object, in the same frame as the boxes; predicted masks are run-length encoded.
"""
from typing import NoReturn

from detkit.mmdet_names import missing_attribute
from detkit.structures.masks import BitmapMasks, PolygonMasks
from detkit.structures.rle_masks import RLEMasks
from detkit.structures.sample import DetDataSample

__all__ = ['BitmapMasks', 'DetDataSample', 'PolygonMasks', 'RLEMasks']


def __getattr__(name: str) -> NoReturn:
    missing_attribute(__name__, name)
