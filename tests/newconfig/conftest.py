"""A small data set with masks, and plans made from it."""
from __future__ import annotations

import pytest

from detkit.data.synthetic import generate
from detkit.registry import register_all_modules


@pytest.fixture(autouse=True)
def our_scope():
    register_all_modules(init_default_scope=True)


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """Folder of 12 training and 6 validation images of 64x64 pixels."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    generate(root, num_train=12, num_val=6, size=64, progress=False)
    return root
