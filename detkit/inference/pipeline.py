"""The config's test pipeline, made ready for images without annotations."""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from detkit.data.compose import Compose
from detkit.registry import TRANSFORMS, ConfigError

LOADERS = ('LoadImageFromFile',)
NEEDS_ANNOTATIONS = ('LoadAnnotations', 'FilterAnnotations', 'LoadProposals')
