"""detkit: object detection research on today's PyTorch.

Importing this package loads neither torch nor mmengine: registries import a class when a config first names it. After it, an import of
MMDetection or mmcv that fails says what to write in detkit.
"""
import detkit.threads  # noqa: F401  sets what torch reads when it is imported
from detkit.mmdet_names import install_finder

__version__ = '0.1.0'

install_finder()
