"""Panoptic maps: their encoding in COCO's PNG files and in predictions.

In a file (https://cocodataset.org/#format-data), a pixel's colour is the id of its segment, red + 256 green + 256^2 blue; 0 is unlabelled.
A JSON file describes the segments. A predicted map contains label + ``INSTANCE_OFFSET`` * n, with n the number of the thing in the image,
from 1, and 0 for stuff; pixels without a segment contain the number of classes.
"""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from detkit.opencv import cv2

INSTANCE_OFFSET = 1000
VOID_LABEL = 255     # pixels without a label in a ground-truth semantic map
MAX_NAMED = 5        # max ids listed in a message


def read_segment_ids(path: str | Path) -> np.ndarray:
    """Read a panoptic PNG file as int32 segment ids (H, W).

    Raises:
        ValueError: the file is missing or cannot be decoded. The message does not name the file.
    """
    if not Path(path).is_file():
        raise ValueError('there is no such file')
    colours = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if Path(path).stat().st_size else None
    if colours is None:
        raise ValueError('not a picture that OpenCV can decode, or a damaged one')
    blue, green, red = (colours[..., i].astype(np.int32) for i in range(3))
    return red + 256 * green + 256**2 * blue


def colours_of(ids: np.ndarray) -> np.ndarray:
    """Convert segment ids (H, W) in [0, 256^3) to uint8 (H, W, 3) BGR, as OpenCV writes it."""
    ids = ids.astype(np.int32)
    return np.stack([ids >> 16, ids >> 8 & 255, ids & 255], -1).astype(np.uint8)


def segment_indices(ids: np.ndarray, listed: Iterable[int], size: tuple[int, int]) -> np.ndarray:
    """Return the position of each pixel's segment in ``listed``, counted from 1, as int64 (H, W); 0 for unlabelled pixels.

    Raises:
        ValueError: the map is not of ``size`` (height, width), contains a segment that is not ``listed``, or lacks one that is. The message
            names the ids, not the file.
    """
    if ids.shape != tuple(size):
        raise ValueError(f"its size is {ids.shape} (height, width), its image's is {tuple(size)}")
    listed = np.array([0, *listed], np.int64)
    order = listed.argsort(kind='stable')
    index = order[np.searchsorted(listed, ids, sorter=order).clip(max=len(listed) - 1)]
    unlisted = listed[index] != ids
    if unlisted.any():
        raise ValueError(f'it shows the segments {named(np.unique(ids[unlisted]))}, which the annotation file does not list for it')
    missing = np.bincount(index.ravel(), minlength=len(listed))[1:] == 0
    if missing.any():
        raise ValueError(f'no pixel of it belongs to the segments {named(listed[1:][missing])}, which the annotation file lists for it')
    return index


def named(ids: np.ndarray) -> str:
    more = f' and {len(ids) - MAX_NAMED} more' if len(ids) > MAX_NAMED else ''
    return ', '.join(str(i) for i in ids[:MAX_NAMED]) + more
