"""Load slices of DICOM series as images."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from detkit.data.formats.dicom import pydicom_module, read_values, slices_beside
from detkit.data.formats.faults import UnreadablePicture
from detkit.data.transforms.base import BaseTransform
from detkit.data.transforms.loading import UnreadableImage, as_bytes, check_local, with_image
from detkit.registry import TRANSFORMS, ConfigError

# (center, width) in Hounsfield units, common CT windows
PRESETS = dict(lung=(-600, 1500), abdomen=(40, 400), bone=(400, 1800), brain=(40, 80), soft_tissue=(50, 400), mediastinum=(50, 350))


@TRANSFORMS.register_module()
class LoadDICOM(BaseTransform):
    """Read ``img_path``, a DICOM file with one grey slice. Writes ``img`` uint8 (H, W, C), ``img_shape`` and ``ori_shape``.

    Values are rescaled (slope, intercept), clipped to a window and mapped to 0..255. MONOCHROME1 is inverted, so higher is brighter.

    Args:
        window: (center, width) in the units of the values; a name in PRESETS; ``file`` (the first window in the file, or
            ``range`` if it has none); or ``range`` (minimum and maximum of the slice).
        slices: number of channels. 1: the slice repeated three times. An odd number from 3 (2.5-D): the slice and its neighbours in the
            series, with the slice in the middle. The series' files are in the same folder; at its ends the last slice is repeated.
        step: distance between neighbours, in slices.

    Raises:
        UnreadableImage: not a DICOM file, or it cannot be decoded. ConfigError: pydicom is not installed.
    """

    def __init__(self, window: str | tuple[float, float] = 'file', slices: int = 1, step: int = 1, to_float32: bool = False,
                 backend_args: dict | None = None) -> None:
        check_local(backend_args)
        pydicom_module()
        if isinstance(window, str) and window not in ('file', 'range', *PRESETS) or not isinstance(window, str) and window[1] <= 0:
            raise ConfigError(f'LoadDICOM window={window!r} is unknown. Known: (center, width), file, range, {", ".join(PRESETS)}.')
        if slices < 1 or slices % 2 == 0 or step < 1:
            raise ConfigError(f'LoadDICOM slices={slices}, step={step}: an odd number of slices, at least one apart.')
        self.window, self.slices, self.step, self.to_float32 = window, slices, step, to_float32

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        path, encoded = results['img_path'], results.pop('encoded', None)
        middle = self.read(path, None if encoded is None else encoded.tobytes())
        if self.slices == 1:
            return with_image(results, np.repeat(middle[..., None], 3, 2), self.to_float32)
        around = [middle if p == path else self.read(p) for p in self.neighbours(path)]
        if len({a.shape for a in around}) > 1:
            raise UnreadableImage(path, f'the slices beside it have other sizes: {sorted({a.shape for a in around})}')
        return with_image(results, np.stack(around, 2), self.to_float32)

    def neighbours(self, path: str) -> list[str]:
        for found in slices_beside(str(Path(path).parent)).values():
            if path in found:
                here, half = found.index(path), self.slices // 2
                return [found[min(max(here + k * self.step, 0), len(found) - 1)] for k in range(-half, half + 1)]
        raise UnreadableImage(path, 'its series is not known: the name must end with .dcm, or have no ending')

    def read(self, path: str, data: bytes | None = None) -> np.ndarray:
        """Return the slice, uint8 (H, W)."""
        try:
            values, found = read_values(path, data)
        except UnreadablePicture as error:
            raise UnreadableImage(path, str(error)) from None
        image = as_bytes(values, self.limits(values, found))
        return 255 - image if found.get('PhotometricInterpretation') == 'MONOCHROME1' else image

    def limits(self, values: np.ndarray, found: Any) -> tuple[float, float]:
        """Return the values that are mapped to 0 and 255 (DICOM PS3.3, C.11.2.1.2)."""
        window = PRESETS.get(self.window, self.window) if isinstance(self.window, str) else self.window
        if window == 'file':
            center, width = found.get('WindowCenter'), found.get('WindowWidth')
            first = [v[0] if isinstance(v, (list, tuple)) or hasattr(v, '__iter__') else v for v in (center, width) if v is not None]
            window = tuple(map(float, first)) if len(first) == 2 and float(first[1]) > 0 else 'range'
        if window == 'range':
            return float(values.min()), float(values.max())
        return window[0] - window[1] / 2, window[0] + window[1] / 2
