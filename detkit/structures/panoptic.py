"""Panoptic maps: how segments are coded in COCO's pictures, and in what a detector predicts.

On disk (https://cocodataset.org/#format-data) a pixel's colour is the id of its segment, red + 256 green + 256^2 blue, 0 where nothing
is known; a JSON file says what each segment is. A predicted map holds label + ``INSTANCE_OFFSET`` * n, where n counts the
things of an image from 1 and is 0 for stuff; pixels that belong to nothing hold the number of classes.
"""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from detkit.opencv import cv2

INSTANCE_OFFSET = 1000
VOID_LABEL = 255     # in a ground-truth map of labels: nothing is known of this pixel
MAX_NAMED = 5        # ids that a message lists


def read_segment_ids(path: str | Path) -> np.ndarray:
    """A panoptic picture as int32 (H, W) segment ids.

    Raises:
        ValueError: it is missing or cannot be decoded. The message does not name the file.
    """
    if not Path(path).is_file():
        raise ValueError('there is no such file')
    colours = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if Path(path).stat().st_size else None
    if colours is None:
        raise ValueError('not a picture that OpenCV can decode, or a damaged one')
    blue, green, red = (colours[..., i].astype(np.int32) for i in range(3))
    return red + 256 * green + 256**2 * blue


def colours_of(ids: np.ndarray) -> np.ndarray:
    """Segment ids (H, W) in [0, 256^3) -> uint8 (H, W, 3) BGR, as OpenCV writes it."""
    ids = ids.astype(np.int32)
    return np.stack([ids >> 16, ids >> 8 & 255, ids & 255], -1).astype(np.uint8)


def segment_indices(ids: np.ndarray, listed: Iterable[int], size: tuple[int, int]) -> np.ndarray:
    """Where in ``listed`` each pixel's segment stands, counted from 1, 0 where nothing is known: int64 (H, W).

    Raises:
        ValueError: the map is not of ``size`` (height, width), shows a segment that is not ``listed``, or lacks one that is. The message
            names the ids and not the file.
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
