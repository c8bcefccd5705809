"""Images with rectangles as objects, which are drawn into masks as well."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from detkit.structures import BitmapMasks, PolygonMasks


def drawn(boxes=((10, 5, 30, 25), (0, 0, 64, 48)), size=(48, 64), masks: str | None = 'bitmap', seed=0) -> dict:
    """Results as after LoadAnnotations; ``masks``: bitmap, polygon or None."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    bitmaps = np.zeros((len(boxes), *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(bitmaps, boxes.astype(int)):
        mask[y1:y2, x1:x2] = 1
    image = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    out = dict(img=image, img_shape=size, ori_shape=size, gt_bboxes=boxes, gt_bboxes_labels=np.arange(len(boxes)),
               gt_ignore_flags=np.zeros(len(boxes), bool), rng=np.random.default_rng(seed), num_samples=5,
               partner=lambda i: drawn([(12, 8, 40, 30)], size, masks, seed=100 + int(i)))
    if masks == 'bitmap':
        out['gt_masks'] = BitmapMasks(bitmaps, *size)
    elif masks == 'polygon':
        out['gt_masks'] = PolygonMasks([[np.array([x1, y1, x2, y1, x2, y2, x1, y2])] for x1, y1, x2, y2 in boxes], *size)
    return out


@pytest.fixture
def draw() -> Callable[..., dict]:
    return drawn
