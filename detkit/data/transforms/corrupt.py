"""Common corruptions, for robustness."""
from __future__ import annotations

from typing import Any

import numpy as np

from detkit.data.transforms.base import BaseTransform
from detkit.registry import TRANSFORMS, ConfigError, did_you_mean


@TRANSFORMS.register_module()
class Corrupt(BaseTransform):
    """One of the corruptions of https://arxiv.org/abs/1907.07484, by the module imagecorruptions (extra ``corruptions``: its kept
    fork imagecorruptions-imaug; the original does not run beside a setuptools of today).

    ``corruption``: its name there, as ``gaussian_noise`` or ``fog``. ``severity``: 1 to 5. That package draws from numpy's global state,
    which is set for it and put back; of ``glass_blur`` alone a part cannot be set, so it is not the same twice.
    """

    random = True

    def __init__(self, corruption: str, severity: int = 1) -> None:
        try:
            import imagecorruptions
        except ImportError as error:
            raise ConfigError("Corrupt needs the module imagecorruptions: pip install 'detkit[corruptions]'") from error
        names = imagecorruptions.get_corruption_names('all')
        if corruption not in names or severity not in range(1, 6):
            raise ConfigError(f"Corrupt corruption='{corruption}', severity={severity} is unknown.{did_you_mean(corruption, names)} "
                              f'Severities are 1 to 5; known: {", ".join(names)}.')
        self.corruption, self.severity = corruption, severity

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        import imagecorruptions
        before = np.random.get_state()
        np.random.seed(int(results['rng'].integers(2**32)))
        try:
            image = imagecorruptions.corrupt(results['img'].astype(np.uint8), severity=self.severity, corruption_name=self.corruption)
        finally:
            np.random.set_state(before)
        results['img'] = np.ascontiguousarray(image, np.uint8)
        return results
