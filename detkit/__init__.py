"""detkit: object detection research on today's PyTorch.

Importing this package loads neither torch nor mmengine: registries import a class when a config first names it.
"""

__version__ = '0.1.0'
