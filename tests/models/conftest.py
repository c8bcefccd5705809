"""What the tests of models share, as fixtures: see tests/support/kinds.py."""
from __future__ import annotations

from collections.abc import Callable

import pytest
from kinds import make_batch, make_images, make_sample, small_config, small_detector
from torch import Tensor, nn

from detkit.structures import DetDataSample


@pytest.fixture
def config() -> Callable[[str], dict]:
    return small_config


@pytest.fixture
def detector() -> Callable[..., nn.Module]:
    return small_detector


@pytest.fixture
def sample() -> Callable[..., DetDataSample]:
    return make_sample


@pytest.fixture
def images() -> Callable[..., list[Tensor]]:
    return make_images


@pytest.fixture
def batch() -> Callable[..., dict]:
    return make_batch
