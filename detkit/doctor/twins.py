"""Find identical and nearly identical images within a split and across splits, where they would leak training images into a test."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from detkit.doctor.pictures import Picture
from detkit.opencv import cv2

BITS_APART = 3         # of 64: maximum number of different bits of near-duplicates; 4 bands of 16 bits then share at least one band
LEVELS_APART = 5.      # mean difference of the grey thumbnails, of 255
FLAT = 8.              # standard deviation; images below it are too uniform to compare
ALIKE = 0.99           # minimum correlation of the thumbnails
NEIGHBOURS = 300       # in a large group of similar images, such as video frames, each is compared with this many following images


def difference_hash(thumb: np.ndarray) -> int:
    """Return 64 bits: whether each cell of an 8x8 grid is brighter than its right neighbour."""
    small = cv2.resize(thumb, (9, 8), interpolation=cv2.INTER_AREA).astype(int)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), 'big')


def same_files(pictures: Sequence[Picture]) -> list[list[int]]:
    """Return groups of images with identical bytes."""
    groups = defaultdict(list)
    for i, p in enumerate(pictures):
        if p.digest:
            groups[p.digest].append(i)
    return [g for g in groups.values() if len(g) > 1]


def near_twins(pictures: Sequence[Picture]) -> Iterator[tuple[int, int]]:
    """Yield pairs that look alike and are not the same file: resized, saved again, slightly cropped or changed in brightness."""
    usable = [i for i, p in enumerate(pictures) if p.thumb is not None and p.thumb.std() >= FLAT]
    hashes = {i: difference_hash(pictures[i].thumb) for i in usable}
    bands = defaultdict(list)
    for i in usable:
        for band in range(4):
            bands[band, hashes[i] >> 16 * band & 0xffff].append(i)
    seen = set()
    for members in bands.values():
        for n, i in enumerate(members):
            for j in members[n + 1:n + 1 + NEIGHBOURS]:
                if (i, j) in seen or (hashes[i] ^ hashes[j]).bit_count() > BITS_APART:
                    continue
                seen.add((i, j))
                if pictures[i].digest != pictures[j].digest and alike(pictures[i].thumb, pictures[j].thumb):
                    yield i, j


def alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two thumbnails differ only by noise or a change of brightness."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    a, b = a - a.mean(), b - b.mean()
    return bool(np.abs(a - b).mean() < LEVELS_APART and (a * b).sum() > ALIKE * np.sqrt((a * a).sum() * (b * b).sum()))
