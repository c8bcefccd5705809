"""Fixtures that several test folders use."""
from __future__ import annotations

from pathlib import Path

import pytest

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
