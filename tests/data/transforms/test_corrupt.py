from __future__ import annotations

import sys

import numpy as np
import pytest

from detkit.data.transforms.corrupt import Corrupt
from detkit.registry import ConfigError


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'imagecorruptions', None)
    with pytest.raises(ConfigError, match=r"pip install 'detkit\[corruptions\]'"):
        Corrupt('fog')


def test_the_image_is_corrupted_by_its_own_generator(draw):
    pytest.importorskip('imagecorruptions', reason="needs pip install 'detkit[corruptions]'")
    state = np.random.get_state()[1].copy()
    one, two, other = (Corrupt('gaussian_noise', 3)(draw(seed=s)) for s in (1, 1, 2))
    assert (one['img'] == two['img']).all() and one['img'].dtype == np.uint8
    before = draw(seed=1)['img']
    assert (one['img'] != before).any() and (one['img'] != other['img']).any()
    assert (np.random.get_state()[1] == state).all()


def test_unknown_corruptions_are_refused():
    pytest.importorskip('imagecorruptions', reason="needs pip install 'detkit[corruptions]'")
    with pytest.raises(ConfigError, match='gausian_noise.*gaussian_noise'):
        Corrupt('gausian_noise')
    with pytest.raises(ConfigError, match='1 to 5'):
        Corrupt('fog', 6)
