"""A numpy image that notebooks display."""
from __future__ import annotations

import os

import numpy as np

from detkit.files import atomic_path
from detkit.opencv import cv2


class Picture(np.ndarray):
    """A numpy image, RGB uint8 (height, width, 3), that a notebook displays if it is the last line of a cell.

    ``Picture(array)`` does not copy.
    """

    def __new__(cls, image: np.ndarray) -> Picture:
        return np.asarray(image).view(cls)

    def _repr_png_(self) -> bytes | None:
        """Return PNG bytes for IPython; None, so that the numbers are displayed, if this is a slice that is not an image."""
        return encoded(self, '.png') if self.ndim == 3 and self.shape[2] == 3 and self.dtype == np.uint8 else None

    def save(self, path: str | os.PathLike) -> None:
        """Write the image atomically, in the format of the suffix of ``path``.

        Raises:
            ValueError: OpenCV has no format for that suffix.
        """
        data = encoded(self, os.path.splitext(path)[1])
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)


def encoded(image: np.ndarray, suffix: str) -> bytes:
    """Return ``image`` (RGB) encoded in the file format of ``suffix``."""
    try:
        done, data = cv2.imencode(suffix, cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR))
    except cv2.error:
        done = False
    if not done:
        raise ValueError(f"no picture format for the ending '{suffix}'. Use .png or .jpg.")
    return data.tobytes()
