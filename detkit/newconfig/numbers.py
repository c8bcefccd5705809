"""Training settings computed from the data and the machine: network input size, epochs, batch size."""
from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np

SIZE_MULTIPLE = 32                 # of the network input: the coarsest stride of most detectors
MAX_SIDE = dict(cpu=640, gpu=1333)
MIN_CPU_SIDE = 320                 # images are not made smaller than this to save time
SMALL_OBJECT, TINY_OBJECT = 16, 8  # pixels in the network input: desired and required size of the smallest tenth of the objects
MAX_ZOOM = 2.0
IMAGES_SEEN = dict(scratch=20_000, pretrained=6_000)    # in the whole training
MIN_STEPS, MIN_EPOCHS, MAX_EPOCHS = 1500, 12, 300
MAX_CPU_BATCH, MIN_STEPS_PER_EPOCH, MAX_WORKERS = 8, 4, 4


@dataclass(frozen=True)
class Numbers:
    """Settings computed from the data and the machine."""

    image_size: tuple[int, int]    # (width, height) of the network input
    max_epochs: int
    val_interval: int
    batch_size: int
    num_workers: int


def choose_image_size(content: dict, on_gpu: bool) -> tuple[int, int]:
    """Return (width, height) of the network input: the images' own size if not too large, in multiples of 32.

    The aspect ratio is that of the median image, or 1 if portrait and landscape images are mixed. On a CPU, images are reduced as long as
    the smallest tenth of the objects keeps SMALL_OBJECT pixels; objects below TINY_OBJECT pixels increase the size.
    """
    sizes = np.array([(i['width'], i['height']) for i in content['images']], float)
    width, height = np.median(sizes, axis=0)
    upright = (sizes[:, 0] < sizes[:, 1]).mean()
    if 0.1 < upright and (sizes[:, 0] > sizes[:, 1]).mean() > 0.1:
        width = height = np.median(sizes.max(axis=1))
    sides = [math.sqrt(max(a['bbox'][2] * a['bbox'][3], 1.)) for a in content['annotations']]
    small = float(np.quantile(sides, 0.1)) if sides else float(SMALL_OBJECT)
    long_side = max(width, height)
    limit = MAX_SIDE['gpu' if on_gpu else 'cpu'] / long_side
    scale = min(1., limit)
    if not on_gpu:
        scale = min(scale, max(SMALL_OBJECT / small, MIN_CPU_SIDE / long_side))
    scale = max(scale, min(TINY_OBJECT / small, MAX_ZOOM, limit))
    return tuple(max(SIZE_MULTIPLE, math.ceil(round(v * scale, 3) / SIZE_MULTIPLE) * SIZE_MULTIPLE) for v in (width, height))


def choose_numbers(content: dict, recipe_batch: int, pretrained: bool, on_gpu: bool, cores: int | None = None) -> Numbers:
    """Return all settings: small datasets get more epochs, and batches small enough for several steps per epoch."""
    count = len(content['images'])
    batch = min(recipe_batch, max(1, count // MIN_STEPS_PER_EPOCH), recipe_batch if on_gpu else MAX_CPU_BATCH)
    seen = max(IMAGES_SEEN['pretrained' if pretrained else 'scratch'], MIN_STEPS * batch)
    epochs = min(max(round_epochs(seen / count), MIN_EPOCHS), MAX_EPOCHS)
    workers = min(MAX_WORKERS, max(1, (cores or os.cpu_count() or 1) - 1))
    return Numbers(choose_image_size(content, on_gpu), epochs, max(1, epochs // 10), batch, workers)


def round_epochs(value: float) -> int:
    """Round to a usual number: 98 becomes 100, 17 stays."""
    return round(value, -1) if (value := round(value)) >= 25 else value
