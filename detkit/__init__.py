"""detkit: object detection research on today's PyTorch.

Importing this package loads neither torch nor mmengine: registries import a class when a config first names it, and the public calls
(``detkit.train``, ``detkit.init_detector``, ...) are imported when they are first used. It sets how torch's threads wait
(``detkit.threads``), so import it before torch. After it, an import of MMDetection or mmcv that fails says what to write in detkit.
"""
from importlib import import_module
from typing import TYPE_CHECKING, Any

import detkit.threads  # noqa: F401  sets what torch reads when it is imported
from detkit.mmdet_names import install_finder

if TYPE_CHECKING:
    from detkit.config import load_config
    from detkit.engine.run import evaluate, train
    from detkit.inference.detector import inference_detector, init_detector
    from detkit.inference.files import infer_files
    from detkit.inference.inferencer import DetInferencer
    from detkit.registry import ConfigError, register_all_modules
    from detkit.structures import DetDataSample

__version__ = '0.1.0'
__all__ = ['ConfigError', 'DetDataSample', 'DetInferencer', 'evaluate', 'infer_files', 'inference_detector', 'init_detector', 'load_config',
           'register_all_modules', 'train']

_MODULES = {'ConfigError': 'registry', 'DetDataSample': 'structures', 'DetInferencer': 'inference.inferencer', 'evaluate': 'engine.run',
            'infer_files': 'inference.files', 'inference_detector': 'inference.detector', 'init_detector': 'inference.detector',
            'load_config': 'config', 'register_all_modules': 'registry', 'train': 'engine.run'}

install_finder()


def __getattr__(name: str) -> Any:
    """Import a public call when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'detkit' has no attribute '{name}'. It offers: {', '.join(__all__)}.")
    return getattr(import_module(f'detkit.{_MODULES[name]}'), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
