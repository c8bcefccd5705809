"""Fixtures that several test folders use."""
from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import settings

os.environ.setdefault('OMP_NUM_THREADS', '1')      # before torch reads it: several processes test at once ('make test'), each on one core

settings.register_profile('repeatable', derandomize=True)      # the same examples in each run; HYPOTHESIS_PROFILE=default draws others
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'repeatable'))

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='session')
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope='session')
def shared() -> Path:
    """Real data and reference results that lie beside the repository; tests that need them skip without."""
    path = ROOT.parent / 'shared'
    if not path.is_dir():
        pytest.skip('reference data is not beside this checkout')
    return path


@pytest.fixture
def coco(tmp_path):
    """Folder with five images and their COCO file; image 3 has no object, image 4 a crowd, image 5 lies upright."""
    rng = np.random.default_rng(0)
    (tmp_path / 'images').mkdir()
    sizes = [(48, 64), (48, 64), (48, 64), (48, 64), (64, 48)]
    images = []
    for i, (h, w) in enumerate(sizes, 1):
        cv2.imwrite(str(tmp_path / 'images' / f'{i}.png'), rng.integers(0, 255, (h, w, 3), dtype=np.uint8))
        images.append(dict(id=i, file_name=f'{i}.png', width=w, height=h))
    objects = [(1, 7, [4, 5, 10, 12], 0), (1, 3, [20, 10, 15, 20], 0), (2, 3, [0, 0, 64, 48], 0), (4, 7, [1, 1, 30, 30], 1),
               (4, 3, [30, 20, 20, 10], 0), (5, 7, [5, 5, 20, 40], 0)]
    annotations = [dict(id=n, image_id=i, category_id=c, bbox=b, area=b[2] * b[3], iscrowd=crowd,
                        segmentation=[[b[0], b[1], b[0] + b[2], b[1], b[0] + b[2], b[1] + b[3], b[0], b[1] + b[3]]])
                   for n, (i, c, b, crowd) in enumerate(objects, 1)]
    categories = [dict(id=3, name='dog'), dict(id=7, name='cat')]
    (tmp_path / 'a.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return tmp_path
