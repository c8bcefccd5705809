"""A tiny panoptic data set: squares (things) before a sky above grass (stuff)."""
from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from detkit.structures.panoptic import colours_of

CLASSES = dict(classes=('red', 'blue', 'sky', 'grass'))
CATEGORIES = [dict(id=5, name='red', isthing=1), dict(id=9, name='blue', isthing=1), dict(id=200, name='sky', isthing=0),
              dict(id=90, name='grass', isthing=0)]
COLOURS = {5: (40, 40, 220), 9: (220, 60, 40), 200: (230, 210, 150), 90: (40, 150, 60)}   # BGR


def write_panoptic(folder: Path, images: list[tuple[np.ndarray, dict[int, dict]]]) -> Path:
    """Each image is its map of segment ids (H, W) and, for each id, ``category_id`` (and ``iscrowd``). Writes ``images/N.jpg``,
    ``panoptic/N.png`` and ``panoptic.json``, whose path is returned. Pictures show each category in its colour."""
    for name in ('images', 'panoptic'):
        (folder / name).mkdir(parents=True, exist_ok=True)
    entries, annotations = [], []
    for n, (ids, segments) in enumerate(images, 1):
        height, width = ids.shape
        picture, listed = np.zeros((height, width, 3), np.uint8), []
        for i, segment in segments.items():
            ys, xs = np.nonzero(ids == i)
            picture[ys, xs] = COLOURS[segment['category_id']]
            x, y = int(xs.min()), int(ys.min())
            listed.append(dict(id=i, area=len(xs), bbox=[x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y], iscrowd=0) | segment)
        cv2.imwrite(str(folder / f'images/{n}.jpg'), picture, [cv2.IMWRITE_JPEG_QUALITY, 100])
        cv2.imwrite(str(folder / f'panoptic/{n}.png'), colours_of(ids))
        entries.append(dict(id=n, file_name=f'{n}.jpg', height=height, width=width))
        annotations.append(dict(image_id=n, file_name=f'{n}.png', segments_info=listed))
    path = folder / 'panoptic.json'
    path.write_text(json.dumps(dict(images=entries, annotations=annotations, categories=CATEGORIES)))
    return path


def draw_panoptic(folder: Path, count: int, size: int = 64, seed: int = 0) -> Path:
    """``count`` images of sky and grass with one or two squares; every fourth has none."""
    rng = np.random.default_rng(seed)
    images = []
    for n in range(count):
        ids = np.full((size, size), 70_000)
        ids[size // 2:] = 300
        segments = {70_000: dict(category_id=200), 300: dict(category_id=90)}
        for k, category in enumerate((5, 9)[:n % 3 + 1] if n % 4 < 3 else ()):
            side = int(rng.integers(size // 5, size // 3))
            y, x = rng.integers(0, size - side, 2)
            ids[y:y + side, x:x + side] = 1000 + k
            segments[1000 + k] = dict(category_id=category)
        images.append((ids, {i: s for i, s in segments.items() if (ids == i).any()}))
    return write_panoptic(folder, images)
