"""Common corruptions, to test robustness."""
from __future__ import annotations

from typing import Any

import numpy as np

from detkit.data.transforms.base import BaseTransform
from detkit.registry import TRANSFORMS, ConfigError, did_you_mean


@TRANSFORMS.register_module()
class Corrupt(BaseTransform):
    """Apply a corruption of https://arxiv.org/abs/1907.07484 with the package imagecorruptions.

    The extra ``corruptions`` installs the maintained fork imagecorruptions-imaug; the original does not work with current setuptools.

    ``corruption``: its name in the package, such as ``gaussian_noise`` or ``fog``. ``severity``: 1 to 5. The package uses numpy's global
    random state, which is seeded for the call and restored. ``glass_blur`` is not reproducible: a part of its randomness cannot be seeded.
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
