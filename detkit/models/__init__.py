"""Detectors and their parts."""
from typing import NoReturn

from detkit.mmdet_names import missing_attribute


def __getattr__(name: str) -> NoReturn:
    missing_attribute(__name__, name)
